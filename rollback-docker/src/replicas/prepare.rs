//! What can be found out before anything is touched.

use super::{Order, Replicas, place::places};
use crate::{
    disk, error, image,
    member::{Member, State},
    pins::{self, How, Pinning},
    release::{image_of, short},
    settings::Settings,
    spec,
};
use bollard::{
    models::ImageInspect,
    query_parameters::{InspectNetworkOptions, ListContainersOptions},
};
use rollback_core::{Change, DiffLine, Error, Finding, Kind, Payload, Prepared, Result, Severity, Stored, Work};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The places without a container that are made again as they were recorded.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Anew(pub(super) BTreeSet<String>);

impl Stored for Anew {
    const NAME: &'static str = "docker/made-again";
    const VERSION: u32 = 1;
}

impl Replicas {
    /// Why the old container has to stop before the new one starts, if it has to.
    pub(super) fn stops_first(&self, spec: &spec::Spec) -> Option<String> {
        match self.options.order {
            Order::StopFirst => Some("so it was asked for".into()),
            Order::Auto => spec::exclusive(spec),
        }
    }

    pub(crate) async fn make_ready(&self, change: &Change, work: &Work) -> Result<Prepared> {
        let wanted = change.only_release()?;
        let good = image_of(wanted)?;
        let members = self.present().await.map_err(|e| e.with_target(&self.id))?;
        let (there, back) = self.image(good, work).await.map_err(|e| e.with_target(&self.id))?;
        let named = |id: &str, tags: Option<&Vec<String>>| match tags.and_then(|tags| tags.first()) {
            Some(tag) => format!("{tag} ({})", short(id)),
            None => short(id).to_owned(),
        };
        let to = named(good, there.repo_tags.as_ref());
        let (mut prepared, mut diff) = (Prepared::new(change), vec![]);
        if let Some(from) = back {
            let what = format!("the engine did not have {} any more: it was {from}", short(good));
            prepared = prepared.with_finding(Finding::new(Severity::Note, "image-back", what));
        }
        let mut left: Vec<String> = members.iter().filter(|m| m.image != good).map(Member::image_name).collect();
        left.sort();
        left.dedup();
        for finding in self.about_pin_file(good, &left).map_err(|e| e.with_target(&self.id))? {
            prepared = prepared.with_finding(finding);
        }
        let recorded = self.recorded(good).await.map_err(|e| e.with_target(&self.id))?;
        // Those that were never started are of a rollback that made them again, and was killed before all were made.
        let never_ran = |m: &Member| m.candidate_for().is_some() && m.state == State::Created;
        if members.iter().all(never_ran) {
            prepared = self
                .anew(prepared, good, &to, &members, recorded.as_ref(), &mut diff)
                .await
                .map_err(|e| e.with_target(&self.id))?;
        }
        for (place, seats) in places(&members) {
            let Some(sitting) = seats.sitting.filter(|m| m.image != good) else { continue };
            let bad = image::find(&self.engine, &sitting.image).await?;
            let from = named(&sitting.image, bad.as_ref().and_then(|b| b.repo_tags.as_ref()));
            diff.push(DiffLine::new(format!("image of {place}"), from, &to));
            if bad.is_none() {
                let why = format!(
                    "the image that {place} runs is gone, so its defaults cannot be told from what {place} was given"
                );
                prepared = prepared.with_finding(Finding::new(Severity::Warning, "image-gone", why));
            }
            let defaults = bad.and_then(|b| b.config).unwrap_or_default();
            let given = spec::given(&sitting.seen, &defaults);
            if let Some(names) = recorded.as_ref().and_then(|recorded| recorded.drift(place, &given)) {
                let why = format!(
                    "{place} keeps settings that are other than when {} was recorded: {names}; if it does not come up, or \
                     misbehaves, look at them first",
                    short(good)
                );
                prepared = prepared.with_finding(Finding::new(Severity::Warning, "settings-differ", why));
            }
            match self.stops_first(&given) {
                Some(why) => {
                    diff.push(DiffLine::new(format!("order of {place}"), "", format!("stop first: {why}")));
                    let removed = sitting.seen.host_config.as_ref().and_then(|h| h.auto_remove) == Some(true);
                    if removed {
                        let why = format!(
                            "{place} removes itself when it stops (--rm), so it could not be brought back: start it without"
                        );
                        prepared = prepared.with_finding(Finding::new(Severity::Blocks, "auto-remove", why));
                    }
                }
                None => {
                    diff.push(DiffLine::new(format!("order of {place}"), "", "start first, then stop the old one"));
                    let volumes = spec::shared_volumes(&sitting.seen);
                    if !volumes.is_empty() {
                        let why = format!(
                            "for a moment two containers of {place} write to {}: order the rollback with the old one stopped first if it cannot bear that",
                            volumes.join(", ")
                        );
                        prepared = prepared.with_finding(Finding::new(Severity::Warning, "shared-volume", why));
                    }
                }
            }
            if !sitting.runs()
                && let Some(why) = self.port_clash(&given, &members).await?
            {
                prepared = prepared.with_finding(Finding::new(Severity::Blocks, "port", why));
            }
        }
        // After the image has come back, which takes room.
        if let Some(finding) = disk::finding(&self.engine).await.map_err(|e| e.with_target(&self.id))? {
            prepared = prepared.with_finding(finding);
        }
        Ok(prepared.with_diff(diff))
    }

    /// There is no container any more that ever ran: those that are not being made are made again as they were recorded.
    async fn anew(
        &self,
        mut prepared: Prepared,
        good: &str,
        to: &str,
        being_made: &[Member],
        recorded: Option<&Settings>,
        diff: &mut Vec<DiffLine>,
    ) -> Result<Prepared> {
        let Some(recorded) = recorded else {
            if !being_made.is_empty() {
                let why = "a rollback was killed while it made its containers again, and how many there were was not recorded with \
                           this release: compare with docker compose ps";
                return Ok(prepared.with_finding(Finding::new(Severity::Warning, "made-in-part", why)));
            }
            let why = format!(
                "it has no container, and what those of {} were given was not recorded: deploy it, or go to a release that was \
                 recorded",
                short(good)
            );
            let e = Error::new(Kind::NotFound, format!("make the {} again", self.object()));
            return Err(e.with_message(why).without_effect());
        };
        let client = self.engine.client();
        let made: BTreeSet<&str> = being_made.iter().map(Member::place).collect();
        let missing = || recorded.each().filter(|(place, _)| !made.contains(place.as_str()));
        for (place, given) in missing() {
            diff.push(DiffLine::new(format!("container {place}"), "", to));
            let mut find = |severity, code: &str, why: String| {
                prepared.findings.push(Finding::new(severity, code, why));
            };
            let why =
                format!("{place} is gone: it is made again, with what it was given when {} was recorded", short(good));
            find(Severity::Warning, "made-again", why);
            for network in given.spec.networks.keys().filter(|name| *name != "default") {
                match client.inspect_network(network, None::<InspectNetworkOptions>).await {
                    Ok(_) => {}
                    Err(e) if error::is_gone(&e) => {
                        let why = format!(
                            "the network {network} of {place} is gone: make it first (docker compose up --no-start)"
                        );
                        find(Severity::Blocks, "network-gone", why);
                    }
                    Err(e) => return Err(error::read(format!("look at the network {network}"))(e)),
                }
            }
            for volume in spec::volumes(&given.spec) {
                match client.inspect_volume(&volume).await {
                    Ok(_) => {}
                    Err(e) if error::is_gone(&e) => {
                        let why = format!("the volume {volume} of {place} is gone: the engine makes an empty one");
                        find(Severity::Warning, "volume-gone", why);
                    }
                    Err(e) => return Err(error::read(format!("look at the volume {volume}"))(e)),
                }
            }
            if let Some(why) = self.port_clash(&given.spec, being_made).await? {
                find(Severity::Blocks, "port", why);
            }
        }
        let places = missing().map(|(place, _)| place.clone()).collect();
        Ok(prepared.with_instructions(Payload::of(&Anew(places))?))
    }

    /// The image, brought back onto the engine where it is not there any more: nothing that runs is touched by that. Says from
    /// where it came.
    pub(super) async fn image(&self, id: &str, work: &Work) -> Result<(ImageInspect, Option<String>)> {
        if let Some(there) = image::find(&self.engine, id).await? {
            return Ok((there, None));
        }
        let kept = self.archive().and_then(|archive| archive.settings(id));
        let back = match self.archive() {
            Some(archive) => archive.bring_back(&self.engine, id, work.within()).await?,
            None => None,
        };
        match image::find(&self.engine, id).await? {
            Some(there) => {
                // Whatever took its pin took it too.
                let pinning = Pinning { given: kept.as_ref(), ..self.pinning(id, How::Recorded) };
                let note = self.archive().map(|archive| archive.notes()).transpose()?.unwrap_or_default();
                let note = note.into_iter().find(|note| note.image == id);
                let pinning = match &note {
                    Some(note) => Pinning { label: &note.label, at: note.at, ..pinning },
                    None => pinning,
                };
                pins::pin(&self.engine, &self.pins_at(), pinning).await?;
                Ok((there, back))
            }
            None => {
                let why = "the engine does not have this image any more: pull or load it, and record releases into an archive, \
                           which no prune reaches";
                let e = Error::new(Kind::NotFound, format!("find the image {}", short(id)));
                Err(e.with_message(why).without_effect())
            }
        }
    }

    /// While it does not run, another container may have taken its port.
    async fn port_clash(&self, given: &spec::Spec, ours: &[Member]) -> Result<Option<String>> {
        let ports = spec::published(given);
        if ports.is_empty() {
            return Ok(None);
        }
        let running = self.engine.client().list_containers(None::<ListContainersOptions>).await;
        let running = running.map_err(error::read("list the containers"))?;
        let others = running.iter().filter(|c| !ours.iter().any(|m| Some(&m.id) == c.id.as_ref()));
        for other in others {
            let taken = other.ports.iter().flatten().filter_map(|p| p.public_port).find(|port| ports.contains(port));
            if let Some(port) = taken {
                let name = other.names.iter().flatten().next().map_or("", |n| n.trim_start_matches('/'));
                return Ok(Some(format!("{name} has port {port} of the host now: stop it first")));
            }
        }
        Ok(None)
    }
}
