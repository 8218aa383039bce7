//! One container after the other onto the good image, by looking and taking the next step: so it goes on wherever it was
//! left, by whomever.
//!
//! A candidate is made beside the old container under a name of its own, which nobody else can take. Start first: it
//! starts, gets healthy, the drain time passes, the old one stops within its grace. Stop first: the old one stops, the
//! candidate starts. Either way the old one is removed only when the candidate is healthy, and the candidate takes over its
//! name; if it does not get healthy it is removed, and the old one serves again.

use super::{
    COMPOSE_IMAGE, Members, Replicas,
    observe::{RESTARTS, Seen},
    place::{Place, places},
    prepare::Anew,
};
use crate::{
    error, image,
    marks::Marks,
    member::{Member, State, candidate_name},
    release::{image_of, short},
    settings::Given,
    spec,
};
use bollard::{
    container::LogOutput,
    models::NetworkConnectRequest,
    query_parameters::{
        CreateContainerOptions, EventsOptions, LogsOptions, RemoveContainerOptions, RenameContainerOptions,
        StartContainerOptions, StopContainerOptions,
    },
};
use futures::{StreamExt as _, TryStreamExt as _};
use rollback_core::{
    Applied, Approved, Error, Extent, Kind, Payload, Result, Stored, Token, Work, redact::without_secrets, seconds,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Between two looks while nothing is heard.
const POLL: Duration = Duration::from_millis(250);
/// A container whose process ends without a restart policy is started so often: the engine itself may have gone down.
const STARTS: u32 = 3;
/// Longer than any two clocks differ: what has run for so long is stable, whoever counts.
const LONG: i64 = 60;

/// So many lines of the log of a container that does not come up, and so many characters of what it says, are told.
const LINES: &str = "5";
const SHOWN: usize = 600;
/// How long its log may take to come.
const WORDS_WITHIN: Duration = seconds(5);

/// The containers that a write made or kept: what its answer says.
#[derive(Debug, Serialize, Deserialize)]
struct Made(Vec<String>);

impl Stored for Made {
    const NAME: &'static str = "docker/containers-made";
    const VERSION: u32 = 1;
}

/// How often a call came back to go on later: a service may take longer to get healthy than one call may last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Waited {
    calls: u64,
    starts: BTreeMap<String, u32>,
}

impl Stored for Waited {
    const NAME: &'static str = "docker/replace-waited";
    const VERSION: u32 = 1;
}

/// What comes next.
enum Next {
    /// All is as it should be.
    Done,
    /// Something was done: look again.
    Again,
    /// Nothing can be done yet.
    Wait(String),
    /// It will not come up, and the old one is back, if there still is one.
    Failed(String),
}

enum Judged {
    Ready,
    NotYet(String),
    Failed(String),
}

impl Replicas {
    /// # Errors
    /// [`Kind::Invalid`] if another engine answers by now; with what effect, it says itself.
    pub(crate) async fn replace(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        match self.steps(approved, token, work).await {
            Err(e) => Err(self.engine.explain(e).await.with_target(&self.id)),
            done => done,
        }
    }

    async fn steps(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let good = image_of(approved.change.only_release()?)?;
        let seen: Seen = token.read()?;
        let end = Instant::now() + slice(work.within());
        let anew: Anew = if approved.instructions.is_some() { approved.read()? } else { Anew::default() };
        let members = self.present().await?;
        if Seen::of(&members) != seen {
            let why = "its containers are not those that were looked at: somebody else is at work here";
            return Err(self.refused(why).without_effect());
        }
        let waited = work.last_checkpoint::<Waited>().await?.unwrap_or_default();
        let notes = self.pin_left(&members, good).await;
        let mut at_work = AtWork {
            replicas: self,
            good,
            work,
            end,
            waited,
            anew,
            known: members.iter().map(|m| m.id.clone()).collect(),
            since: BTreeMap::new(),
            ahead: self.clock_ahead().await?,
            wrote: false,
            notes,
            removed: BTreeSet::new(),
        };
        let done = at_work.go_on(members).await;
        // A look that fails has no effect. What was done before it has.
        done.map_err(|e| if at_work.wrote { error::with_effect(e) } else { e })
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, "replace the containers").with_message(why).with_target(&self.id)
    }

    /// How far the engine's clock is ahead of this one.
    pub(super) async fn clock_ahead(&self) -> Result<jiff::SignedDuration> {
        let info = self.engine.client().info().await.map_err(error::read("read the engine's clock"))?;
        let there: Option<jiff::Timestamp> = info.system_time.as_deref().and_then(|t| t.parse().ok());
        Ok(there.map_or(jiff::SignedDuration::ZERO, |there| there.duration_since(jiff::Timestamp::now())))
    }

    /// Until something happens to one of them, or for a moment. Is the engine still there to be heard?
    async fn hear(&self, members: &[Member]) -> bool {
        let ids = members.iter().map(|m| m.id.clone()).collect();
        let filters = [("container".to_owned(), ids), ("type".to_owned(), vec!["container".to_owned()])];
        let options = EventsOptions { filters: Some(filters.into()), ..EventsOptions::default() };
        let mut events = pin!(self.engine.client().events(Some(options)));
        // Each run of a health check is heard as well, and says nothing yet: a second look is cheap.
        tokio::select! {
            heard = events.next() => {
                let there = matches!(heard, Some(Ok(_)));
                if !there {
                    sleep(POLL).await;
                }
                there
            }
            () = sleep(POLL) => true,
        }
    }

    /// Why a container does not come up, in its own words: what its health check said last, and the end of its log.
    async fn last_words(&self, member: &Member) -> String {
        let mut words = String::new();
        let health = member.seen.state.as_ref().and_then(|s| s.health.as_ref()).and_then(|h| h.log.as_ref());
        if let Some(last) = health.and_then(|log| log.last()) {
            let said = cut(&without_secrets(last.output.as_deref().unwrap_or_default().trim()));
            let said = if said.is_empty() { "nothing".to_owned() } else { said };
            words += &format!("; its health check ended with {}, and said: {said}", last.exit_code.unwrap_or_default());
        }
        let logged = self.last_lines(&member.id).await;
        if !logged.is_empty() {
            words += &format!("; it logged last: {}", cut(&logged.join(" | ")));
        }
        words
    }

    /// As far as they can be read.
    async fn last_lines(&self, container: &str) -> Vec<String> {
        let options = LogsOptions { stdout: true, stderr: true, tail: LINES.into(), ..LogsOptions::default() };
        let logged = self.engine.client().logs(container, Some(options)).try_collect::<Vec<_>>();
        let lines = timeout(WORDS_WITHIN, logged).await.ok().and_then(std::result::Result::ok).unwrap_or_default();
        let plain = |line: LogOutput| without_secrets(String::from_utf8_lossy(&line.into_bytes()).trim());
        lines.into_iter().map(plain).filter(|line| !line.is_empty()).collect()
    }
}

/// The end of it, if it is long.
fn cut(text: &str) -> String {
    let more = text.chars().count().saturating_sub(SHOWN);
    if more == 0 { text.to_owned() } else { format!("… {}", text.chars().skip(more).collect::<String>()) }
}

/// Enough is left of the time of a call to say how far it came.
fn slice(within: Duration) -> Duration {
    within.saturating_sub((within / 4).min(seconds(5)))
}

struct AtWork<'a> {
    replicas: &'a Replicas,
    good: &'a str,
    work: &'a Work,
    end: Instant,
    waited: Waited,
    anew: Anew,
    /// Those that were looked at, and those made here.
    known: BTreeSet<String>,
    /// Since when a container was seen to be up, by its id and start.
    since: BTreeMap<String, Instant>,
    ahead: jiff::SignedDuration,
    /// Something was.
    wrote: bool,
    /// What happened meanwhile.
    notes: Vec<String>,
    /// Those that were removed here.
    removed: BTreeSet<String>,
}

impl AtWork<'_> {
    /// As far as this call has time for.
    async fn go_on(&mut self, mut members: Vec<Member>) -> Result<Applied> {
        loop {
            if self.work.is_cancelled() {
                return Err(self.replicas.refused("this run has lost its lease"));
            }
            let why = match self.next(&members).await? {
                Next::Done => {
                    self.replicas.write_pin_file(self.good, self.work)?;
                    self.notes.extend(self.replicas.pin_reached(self.good).await);
                    let made = Made(members.iter().map(|m| m.id.clone()).collect());
                    let notes = std::mem::take(&mut self.notes);
                    return Ok(Applied::done().with_handle(Payload::of(&made)?).with_notes(notes));
                }
                Next::Failed(why) => {
                    let notes = std::mem::take(&mut self.notes);
                    return Ok(Applied::new(Extent::NotStarted { why }).with_notes(notes));
                }
                Next::Again => None,
                Next::Wait(why) => Some(why),
            };
            if Instant::now() >= self.end {
                return self.later(&members, why).await;
            }
            if why.is_some() && !self.replicas.hear(&members).await {
                self.note("the engine's events broke off: it was restarted, or the connection to it broke".to_owned());
            }
            let before = std::mem::replace(&mut members, self.replicas.present().await?);
            let gone = |m: &&Member| !self.removed.contains(&m.id) && members.iter().all(|now| now.id != m.id);
            let gone: Vec<String> = before.iter().filter(gone).map(|m| m.name.clone()).collect();
            for name in gone {
                self.note(format!("somebody else removed {name}"));
            }
            self.no_stranger(&members).await?;
        }
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    async fn next(&mut self, members: &[Member]) -> Result<Next> {
        let places = places(members);
        // All of them are made before the first is started. Whoever comes after one that was killed finds them together, or
        // none that ever ran: then the record says which there are to be.
        if let Some(name) = self.anew.0.iter().find(|name| !places.contains_key(name.as_str())).cloned()
            && let Some(given) = self.given(&name, None).await?
        {
            self.make(&name, None, given).await?;
            return Ok(Next::Again);
        }
        for (done, (name, place)) in places.iter().enumerate() {
            self.work.progress(done as u64, places.len() as u64);
            match self.settle(name, *place).await? {
                Next::Done => {}
                other => return Ok(other),
            }
        }
        Ok(Next::Done)
    }

    /// The next step of one place.
    async fn settle(&mut self, name: &str, place: Place<'_>) -> Result<Next> {
        let Place { sitting, candidate } = place;
        match (sitting, candidate) {
            (None, None) => Ok(Next::Done),
            (Some(old), None) if old.image == self.good => self.keep(old).await,
            (Some(old), None) => {
                if let Some(given) = self.given(name, Some(old)).await? {
                    self.make(name, Some(old), given).await?;
                }
                Ok(Next::Again)
            }
            // What was left of another attempt.
            (Some(old), Some(new)) if old.image == self.good || new.image != self.good => {
                self.remove(new, true).await?;
                Ok(Next::Again)
            }
            (None, Some(new)) if new.image != self.good => {
                self.rename(new, name).await?;
                Ok(Next::Again)
            }
            (old, Some(new)) => self.take_over(name, old, new).await,
        }
    }

    /// It has the good image already: it has to run, and to be well.
    async fn keep(&mut self, member: &Member) -> Result<Next> {
        if matches!(member.state, State::Created | State::Exited(_)) {
            return self.start(member).await;
        }
        Ok(match self.judge(member) {
            Judged::Ready => Next::Done,
            Judged::NotYet(why) => Next::Wait(why),
            Judged::Failed(why) => Next::Failed(why + &self.replicas.last_words(member).await),
        })
    }

    async fn take_over(&mut self, name: &str, old: Option<&Member>, new: &Member) -> Result<Next> {
        if matches!(new.state, State::Created | State::Exited(_)) {
            if let Some(Given { spec, .. }) = self.given(name, old).await? {
                self.connect(new, &spec).await?;
                if let Some(old) = old.filter(|old| old.runs())
                    && self.replicas.stops_first(&spec).is_some()
                {
                    // Nobody serves until the new one is up: it starts at once, without another look.
                    match self.stop(old).await? {
                        Next::Again => {}
                        other => return Ok(other),
                    }
                }
            }
            return match self.start(new).await? {
                Next::Failed(why) => self.back(old, new, why).await,
                other => Ok(other),
            };
        }
        match self.judge(new) {
            Judged::NotYet(why) => Ok(Next::Wait(why)),
            Judged::Failed(why) => self.back(old, new, why).await,
            Judged::Ready => match old {
                Some(old) if old.runs() => {
                    let drain = self.replicas.options.drain;
                    if self.up_for(new) < drain {
                        return Ok(Next::Wait(format!("{} serves beside {} for {drain:?}", new.name, old.name)));
                    }
                    self.stop(old).await
                }
                Some(old) => {
                    self.remove(old, false).await?;
                    Ok(Next::Again)
                }
                None => {
                    self.rename(new, name).await?;
                    Ok(Next::Again)
                }
            },
        }
    }

    /// The good one does not come up: it goes, and the old one serves again.
    async fn back(&mut self, old: Option<&Member>, new: &Member, why: String) -> Result<Next> {
        let why = why + &self.replicas.last_words(new).await;
        let Some(old) = old else {
            return Ok(Next::Failed(format!("{why}; the one before it is gone already, so it was left as it is")));
        };
        self.remove(new, true).await?;
        if old.runs() {
            return Ok(Next::Failed(format!("{why}; it was removed, and {} serves as before", old.name)));
        }
        self.wrote = true;
        let started = self.replicas.engine.client().start_container(&old.id, None::<StartContainerOptions>).await;
        Ok(Next::Failed(match started {
            Ok(()) => format!("{why}; it was removed, and {} was started again", old.name),
            Err(e) => {
                let e = error::write(format!("start {} again", old.name))(e);
                if e.is_transient() {
                    return Err(e);
                }
                format!("{why}; it was removed, and {}: start it by hand", e.message())
            }
        }))
    }

    fn judge(&mut self, member: &Member) -> Judged {
        if member.restarts >= RESTARTS {
            return Judged::Failed(format!("it crashes at every start: {}", member.describe()));
        }
        let up = self.up_for(member);
        let now = jiff::Timestamp::now().checked_add(self.ahead).unwrap_or(jiff::Timestamp::MAX);
        let running_for = member.started.map_or(jiff::SignedDuration::ZERO, |at| now.duration_since(at));
        match member.state {
            State::Up if member.has_health_check() => Judged::Ready,
            State::Up if up >= self.replicas.options.stable_for || running_for.as_secs() > LONG => Judged::Ready,
            State::Up => {
                Judged::NotYet(format!("{} has to stay up for {:?}", member.name, self.replicas.options.stable_for))
            }
            // The engine says so only after the start period and all retries.
            State::Unhealthy => Judged::Failed(format!("its health check does not pass: {}", member.describe())),
            State::Starting => {
                let most = member.health_deadline().unwrap_or_default() + seconds(10);
                if running_for > jiff::SignedDuration::try_from(most).unwrap_or(jiff::SignedDuration::MAX) {
                    return Judged::Failed(format!(
                        "its health check has not passed within {most:?}: {}",
                        member.describe()
                    ));
                }
                Judged::NotYet(member.describe())
            }
            _ => Judged::NotYet(member.describe()),
        }
    }

    /// For how long it has been seen up since it last started.
    fn up_for(&mut self, member: &Member) -> Duration {
        let start = member.started.map(|at| at.to_string()).unwrap_or_default();
        let key = format!("{} {start}", member.id);
        if !member.is_ready() {
            self.since.remove(&key);
            return Duration::ZERO;
        }
        self.since.entry(key).or_insert_with(Instant::now).elapsed()
    }

    /// What the container of a place is given: what the old one was, and where there is none, what was recorded.
    async fn given(&self, name: &str, old: Option<&Member>) -> Result<Option<Given>> {
        let Some(old) = old else {
            let recorded = self.replicas.recorded(self.good).await?;
            return Ok(recorded.and_then(|recorded| recorded.of(name).cloned()));
        };
        let defaults = image::defaults(&self.replicas.engine, &old.image).await?;
        Ok(Some(Given { image_name: old.image_name(), spec: spec::given(&old.seen, &defaults) }))
    }

    /// Makes the candidate.
    async fn make(&mut self, name: &str, old: Option<&Member>, given: Given) -> Result<()> {
        let Given { image_name: named, spec: spec::Spec { mut body, .. } } = given;
        let mut labels = body.labels.take().unwrap_or_default();
        Marks::of(self.work, name, &named).put(&mut labels);
        if let Members::Compose { .. } = self.replicas.members {
            // Compose compares this label with the id that the name has now, and never looks at the true image: so it
            // takes the container for its own, and a pull that brings nothing new changes nothing.
            let now = image::find(&self.replicas.engine, &named).await?.and_then(|image| image.id);
            labels.insert(COMPOSE_IMAGE.into(), now.unwrap_or_else(|| self.good.to_owned()));
        }
        body.labels = Some(labels);
        body.image = Some(self.good.to_owned());
        let options = CreateContainerOptions { name: Some(candidate_name(name)), ..CreateContainerOptions::default() };
        let client = self.replicas.engine.client();
        let made = client.create_container(Some(options), body).await;
        let place = old.map_or(name, |old| &old.name);
        let operation = format!("make a container of {} in place of {place}", short(self.good));
        self.known.insert(made.map_err(error::write(operation))?.id);
        self.wrote = true;
        Ok(())
    }

    /// An engine before 25 takes only one network when a container is made.
    async fn connect(&mut self, new: &Member, given: &spec::Spec) -> Result<()> {
        let has = new.seen.network_settings.as_ref().and_then(|n| n.networks.clone()).unwrap_or_default();
        for (network, endpoint) in &given.networks {
            let network = if network == "default" { "bridge" } else { network };
            if has.contains_key(network) {
                continue;
            }
            let request = NetworkConnectRequest { container: new.id.clone(), endpoint_config: Some(endpoint.clone()) };
            let connected = self.replicas.engine.client().connect_network(network, request).await;
            connected.map_err(error::write(format!("connect {} to {network}", new.name)))?;
            self.wrote = true;
        }
        Ok(())
    }

    /// Starts it. It failed if the engine refuses; an error is that nothing was heard.
    async fn start(&mut self, member: &Member) -> Result<Next> {
        let starts = self.waited.starts.entry(member.id.clone()).or_default();
        if *starts >= STARTS {
            return Ok(Next::Failed(format!("it does not stay up: {}", member.describe())));
        }
        *starts += 1;
        let started = self.replicas.engine.client().start_container(&member.id, None::<StartContainerOptions>).await;
        self.wrote |= started.is_ok();
        match started {
            Ok(()) => Ok(Next::Again),
            // Somebody takes it away at this moment: when it is gone, another one is made.
            Err(e) if error::is_gone(&e) || e.to_string().contains("marked for removal") => {
                Ok(Next::Wait(format!("{} is being removed by somebody", member.name)))
            }
            Err(e) if matches!(error::status(&e), Some(400 | 409 | 500)) => {
                let e = error::write(format!("start {}", member.name))(e);
                Ok(Next::Failed(e.to_string()))
            }
            Err(e) => Err(error::write(format!("start {}", member.name))(e)),
        }
    }

    /// Stops it within its own grace, which may be longer than this call: then the engine goes on alone.
    async fn stop(&mut self, old: &Member) -> Result<Next> {
        let client = self.replicas.engine.client();
        let stopped = timeout_at(self.end, client.stop_container(&old.id, None::<StopContainerOptions>)).await;
        self.wrote |= !matches!(stopped, Ok(Err(_)));
        match stopped {
            Err(_) => Ok(Next::Wait(format!("{} is stopping", old.name))),
            Ok(Ok(())) => Ok(Next::Again),
            Ok(Err(e)) if error::is_gone(&e) => Ok(Next::Again),
            Ok(Err(e)) => Err(error::write(format!("stop {}", old.name))(e)),
        }
    }

    /// Removes a container, and never its volumes.
    async fn remove(&mut self, member: &Member, force: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: false, force, link: false };
        self.removed.insert(member.id.clone());
        let removed = self.replicas.engine.client().remove_container(&member.id, Some(options)).await;
        self.wrote |= removed.is_ok();
        match removed {
            Ok(()) => Ok(()),
            Err(e) if error::is_gone(&e) => Ok(()),
            // The engine is at it.
            Err(e) if error::status(&e) == Some(409) && e.to_string().contains("already in progress") => Ok(()),
            Err(e) => Err(error::write(format!("remove {}", member.name))(e)),
        }
    }

    async fn rename(&mut self, member: &Member, name: &str) -> Result<()> {
        let options = RenameContainerOptions { name: name.to_owned() };
        let renamed = self.replicas.engine.client().rename_container(&member.id, options).await;
        self.wrote |= renamed.is_ok();
        renamed.map_err(error::write(format!("give {} the name {name}", member.name)))
    }

    /// Somebody made a container here meanwhile: theirs stays, and a candidate for its place goes.
    async fn no_stranger(&mut self, members: &[Member]) -> Result<()> {
        let key = self.work.key();
        let strange = |m: &&Member| !self.known.contains(&m.id) && m.marks.key.as_ref() != Some(&key);
        let Some(stranger) = members.iter().find(strange) else { return Ok(()) };
        let places = places(members);
        let lost = places.values().filter(|place| place.sitting.as_ref().is_some_and(strange));
        let lost: Vec<&Member> = lost.filter_map(|place| place.candidate).filter(|m| !strange(m)).collect();
        for candidate in lost {
            self.remove(candidate, true).await?;
        }
        Err(self.replicas.refused(format!("{} was made by somebody else meanwhile", stranger.name)))
    }

    /// To be called again, to go on.
    async fn later(&mut self, members: &[Member], why: Option<String>) -> Result<Applied> {
        self.waited.calls += 1;
        self.work.checkpoint(&self.waited).await?;
        let why = why.unwrap_or_else(|| "there was no time for more in one call".into());
        let done = self.waited.calls;
        let of = done + members.len() as u64;
        let notes = std::mem::take(&mut self.notes);
        Ok(Applied::new(Extent::Partial { done, of, reasons: [(why, 1)].into() }).with_notes(notes))
    }
}
