//! One read of a service: what it was told, what its tasks are, how far an update is.

use super::{PART, SwarmService, record::timestamp, template};
use crate::{error, image, marks};
use bollard::models::{Service, ServiceSpec, ServiceUpdateStatusStateEnum as Update, Task, TaskSpec, TaskState};
use rollback_core::{
    Error, Identity, InFlight, Kind, Look, Observation, Ours, PartState, Payload, Release, ReleaseId, Result, RunId,
    Running, Settled, Stored, Timestamp, Token, Trace, redact::without_secrets, seconds,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// Tasks of what the service was told that failed: from so many on, waiting will not help.
const FAILED: usize = 3;

/// How long a failure counts against tasks that run at this moment: they may be on their way to the next.
const LATELY: Duration = seconds(10);
/// How much longer than its grace a task may take to stop. One that takes longer is on a node that is gone.
const SLACK: Duration = seconds(5);

/// What compare-and-set needs, and the handle of a write: from which version on it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) service: String,
    pub(super) index: u64,
}
impl Stored for Version {
    const NAME: &'static str = "rollback-docker/swarm-version";
    const VERSION: u32 = 1;
}

/// What an update in flight is called.
#[derive(Debug, Serialize, Deserialize)]
struct Flight {
    started: Option<String>,
}
impl Stored for Flight {
    const NAME: &'static str = "rollback-docker/swarm-update";
    const VERSION: u32 = 1;
}

pub(super) fn is_paused(state: Update) -> bool {
    matches!(state, Update::PAUSED | Update::ROLLBACK_PAUSED)
}

/// What was read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) service: String,
    pub(super) version: u64,
    pub(super) spec: ServiceSpec,
    pub(super) template: TaskSpec,
    pub(super) told: ReleaseId,
    pub(super) updated: Option<Timestamp>,
    pub(super) update: Option<Update>,
    /// The one spec that Swarm remembers.
    pub(super) previous: Option<ServiceSpec>,
    /// Settings of it that this library does not know.
    pub(super) lost: Vec<String>,
    message: String,
    started: Option<String>,
    tasks: Vec<Task>,
    /// The same of what its tasks were made from, by the task's id.
    lost_of_tasks: BTreeMap<String, Vec<String>>,
    lost_of_previous: Vec<String>,
}

/// A release, and what its tasks are made from.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) release: Release,
    pub(super) spec: TaskSpec,
    /// Settings of it that this library does not know.
    pub(super) lost: Vec<String>,
}

impl SwarmService {
    /// # Errors
    /// [`Kind::NotFound`] if there is no such service; [`Kind::Unsupported`] if the engine manages no swarm; [`Kind::Invalid`] if
    /// another engine answers by now.
    pub(super) async fn read(&self) -> Result<Read> {
        self.inner.engine.reading(self.ask()).await
    }

    async fn ask(&self) -> Result<Read> {
        let (engine, name) = (&self.inner.engine, &self.inner.name);
        let operation = || format!("look at the service {name}");
        let missing = || {
            let e = Error::new(Kind::Unexpected, operation());
            e.with_message("the engine gives it without id, version or template").without_effect()
        };
        // As all names of services are; anything else would ask for something else.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(plain) {
            let e =
                Error::new(Kind::NotFound, operation()).with_message("no service has such a name: docker service ls");
            return Err(e.without_effect());
        }
        let mut raw = engine.get(format!("/services/{name}")).await.map_err(|e| {
            if error::status(&e) == Some(503) {
                return Error::new(Kind::Unsupported, operation())
                    .with_message("this engine manages no swarm: connect to a manager")
                    .with_source(e)
                    .without_effect();
            }
            error::read(operation())(e)
        })?;
        let unreadable =
            |e: serde_json::Error| Error::new(Kind::Unexpected, operation()).with_source(e).without_effect();
        let mut take = |what: &str| raw.get_mut(what).map(Value::take).filter(|spec| !spec.is_null());
        let (spec, previous) = (take("Spec").ok_or_else(missing)?, take("PreviousSpec"));
        let (spec, lost) = template::typed::<ServiceSpec>(spec).map_err(unreadable)?;
        let previous = previous.map(template::typed::<ServiceSpec>).transpose().map_err(unreadable)?;
        let (previous, lost_of_previous) = previous.map_or((None, vec![]), |(spec, lost)| (Some(spec), lost));
        let service: Service = serde_json::from_value(raw).map_err(unreadable)?;
        let id = service.id.clone().ok_or_else(missing)?;
        let template = spec.task_template.clone().ok_or_else(missing)?;
        // By id: another service may have the name by now. {"service":["…"]}
        let tasks = engine.get(format!("/tasks?filters=%7B%22service%22%3A%5B%22{id}%22%5D%7D")).await;
        let all = tasks.map_err(error::read("list the tasks of the service"))?;
        let (mut tasks, mut lost_of_tasks) = (vec![], BTreeMap::new());
        for raw in all.as_array().into_iter().flatten() {
            let (task, mut lost) = template::typed::<Task>(raw.clone()).map_err(unreadable)?;
            lost.retain(|path| path.starts_with("Spec."));
            if let Some(id) = task.id.clone().filter(|_| !lost.is_empty()) {
                lost_of_tasks.insert(id, lost);
            }
            tasks.push(task);
        }
        let update = service.update_status.unwrap_or_default();
        Ok(Read {
            version: service.version.and_then(|version| version.index).ok_or_else(missing)?,
            told: template::release(&template),
            updated: timestamp(service.updated_at.as_ref()),
            update: update.state.filter(|state| *state != Update::EMPTY),
            message: update.message.unwrap_or_default(),
            started: update.started_at,
            tasks,
            previous,
            lost,
            lost_of_tasks,
            lost_of_previous,
            service: id,
            spec,
            template,
        })
    }

    /// Every release that is known, the one that was deployed last first. That is what the service is told.
    pub(super) async fn known(&self, read: &Read) -> Result<Vec<Known>> {
        let mut known: Vec<Known> = vec![];
        let mut add = |spec: &TaskSpec, lost: &[String], at: Option<Timestamp>| {
            let id = template::release(spec);
            let at_of = known.iter().position(|known| known.release.id == id);
            let at_of = at_of.unwrap_or_else(|| {
                let release = Release::new(id).with_label(template::image(spec));
                known.push(Known { release, spec: spec.clone(), lost: lost.to_vec() });
                known.len() - 1
            });
            let release = &mut known[at_of].release;
            release.made_at = release.made_at.max(at);
        };
        add(&read.template, &read.lost, read.updated);
        for task in &read.tasks {
            if let Some(spec) = &task.spec {
                let lost = task.id.as_ref().and_then(|id| read.lost_of_tasks.get(id));
                add(spec, lost.map_or(&[], Vec::as_slice), timestamp(task.created_at.as_ref()));
            }
        }
        // It was replaced when the service was last written, so it is older than that, and newer than all else.
        if let Some(spec) = read.previous.as_ref().and_then(|previous| previous.task_template.as_ref()) {
            add(spec, &read.lost_of_previous, read.updated.map(|at| Timestamp(at.0.saturating_sub(1))));
        }
        let recorded = self.recorded(&read.service).await?;
        for recorded in &recorded {
            add(&recorded.spec, &[], recorded.at);
        }
        for recorded in recorded {
            if let Some(known) = known.iter_mut().find(|known| known.release.id == recorded.release) {
                image::call(&mut known.release, &recorded.label);
                known.release.names.extend(recorded.names);
            }
        }
        // Whoever wrote the service last came after all others, whatever any clock says.
        let last = known.iter().skip(1).filter_map(|known| known.release.made_at).max();
        if let (Some(told), Some(last)) = (known.first_mut(), last) {
            told.release.made_at = told.release.made_at.max(Some(last));
        }
        // Stable: what it is told stays first.
        known.sort_by_key(|known| std::cmp::Reverse(known.release.made_at));
        Ok(known)
    }

    pub(super) async fn look(&self, look: Look) -> Result<Observation> {
        let read = self.read().await?;
        let identity = Identity::new(self.inner.engine.scope(), format!("service {}", read.service));
        let settled = read.unsettled().map_or(Settled::Yes, |why| match read.never() {
            Some(why) => Settled::Never { why },
            None => Settled::NotYet { why },
        });
        let mut part = PartState::new(Some(read.told.clone()), read.running()).with_settled(settled);
        part.ready = Some(u32::try_from(read.up().count()).unwrap_or(u32::MAX));
        part.capacity = read.replicas();
        let token = Token(Some(Payload::of(&Version { service: read.service.clone(), index: read.version })?));
        let marks = marks::Marks::read(&read.spec.labels.clone().unwrap_or_default());
        let ours = match (&look.mark, &marks.key) {
            (None, _) => Ours::NotAsked,
            (Some(mark), Some(key)) if *key == mark.key && marks.replaces.as_deref() != Some(read.told.as_str()) => {
                Ours::Replaced { by: read.told.to_string() }
            }
            (Some(mark), Some(key)) if *key == mark.key => match read.unsettled() {
                None => Ours::Complete,
                Some(_) => Ours::Current,
            },
            // A rollback of Swarm takes the labels away with the template.
            (Some(mark), key) if mark.was_undone(&read.told) => Ours::Replaced {
                by: key.clone().unwrap_or_else(|| match read.update {
                    Some(Update::ROLLBACK_STARTED | Update::ROLLBACK_PAUSED | Update::ROLLBACK_COMPLETED) => {
                        format!("docker service rollback, of somebody or of Swarm itself, to {}", read.told)
                    }
                    _ => read.told.to_string(),
                }),
            },
            _ => Ours::CannotTell,
        };
        let mut seen = Observation::new(identity, [(PART.into(), part)], token).with_ours(ours);
        let own = marks.trace.filter(|trace| trace.reached == read.told);
        let trace = match own {
            // Whoever has written already may have asked for that very rollback.
            None if look.mark.is_none()
                && matches!(read.update, Some(Update::ROLLBACK_STARTED | Update::ROLLBACK_COMPLETED)) =>
            {
                // Swarm's own rollback leaves no label, but it says that it was one: the next one would go forward again.
                read.previous.as_ref().and_then(|previous| previous.task_template.as_ref()).map(|left| Trace {
                    run: RunId::from("swarm"),
                    left: template::release(left),
                    reached: read.told.clone(),
                    at: read.updated.unwrap_or(Timestamp(0)),
                })
            }
            own => own,
        };
        if let Some(Update::UPDATING | Update::ROLLBACK_STARTED) = read.update {
            let flight = InFlight::new(Payload::of(&Flight { started: read.started.clone() })?);
            seen = seen.with_in_flight(flight.with_releases(None, Some(read.told.clone())));
        }
        Ok(seen.with_trace(trace))
    }
}

impl Read {
    /// A line for each task, as `docker service ps` shows them.
    pub(super) fn tasks_as_text(&self) -> String {
        let line = |task: &Task| {
            let status = task.status.clone().unwrap_or_default();
            let state = status.state.map(|state| state.to_string()).unwrap_or_default();
            let image = task.spec.as_ref().map(template::image).unwrap_or_default();
            let words = [
                task.id.clone().unwrap_or_default(),
                task.slot.map(|slot| slot.to_string()).unwrap_or_default(),
                image,
                task.node_id.clone().unwrap_or_default(),
                state,
                status.timestamp.unwrap_or_default(),
                status.err.unwrap_or_default(),
            ];
            without_secrets(words.join(" ").trim()) + "\n"
        };
        self.tasks.iter().map(line).collect()
    }
    /// Tasks that run. One whose health check has not passed yet is still starting.
    fn up(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|task| {
            task.desired_state == Some(TaskState::RUNNING)
                && task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING)
        })
    }
    /// Tasks that were told to stop, and still run.
    fn stopping(&self) -> impl Iterator<Item = &Task> {
        let now = Timestamp::now();
        self.tasks.iter().filter(move |task| {
            let container = task.spec.as_ref().and_then(|spec| spec.container_spec.as_ref());
            let grace = container.and_then(|container| container.stop_grace_period).unwrap_or(10_000_000_000);
            let grace = Duration::from_nanos(u64::try_from(grace).unwrap_or_default()) + SLACK;
            task.desired_state == Some(TaskState::SHUTDOWN)
                && task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING)
                && timestamp(task.updated_at.as_ref()).is_some_and(|told| now.since(told) < grace)
        })
    }
    /// Tasks of what the service was told, made since its last update began, that failed.
    fn failed(&self) -> impl Iterator<Item = &Task> {
        let since = timestamp(self.started.as_ref()).or(self.updated);
        self.tasks.iter().filter(move |task| {
            let state = task.status.as_ref().and_then(|status| status.state);
            matches!(state, Some(TaskState::FAILED | TaskState::REJECTED))
                && task.spec.as_ref().is_some_and(|spec| template::release(spec) == self.told)
                && timestamp(task.created_at.as_ref()) >= since
        })
    }
    fn wanted(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|task| task.desired_state == Some(TaskState::RUNNING))
    }
    /// `None` for a global service: as many as there are nodes.
    fn replicas(&self) -> Option<u32> {
        let replicas = self.spec.mode.as_ref()?.replicated.as_ref()?.replicas?;
        u32::try_from(replicas).ok()
    }

    pub(super) fn running(&self) -> Running {
        let mut counts: BTreeMap<ReleaseId, u32> = BTreeMap::new();
        for spec in self.up().chain(self.stopping()).filter_map(|task| task.spec.as_ref()) {
            *counts.entry(template::release(spec)).or_default() += 1;
        }
        match counts.len() {
            0 => Running::Nothing,
            1 => counts.into_keys().next().map_or(Running::Nothing, Running::Release),
            _ => Running::Mixed(counts),
        }
    }

    /// Waiting will not help.
    fn never(&self) -> Option<String> {
        match self.update {
            Some(Update::PAUSED) => return Some(format!("Swarm has paused the update: {}", self.message)),
            Some(Update::ROLLBACK_PAUSED) => return Some(format!("Swarm has paused the rollback: {}", self.message)),
            _ => {}
        }
        let failed: Vec<&Task> = self.failed().collect();
        let last = failed.iter().max_by_key(|task| task.created_at.clone())?;
        let why = last.status.as_ref().and_then(|status| status.err.clone()).unwrap_or_default();
        (failed.len() >= FAILED).then(|| format!("{} tasks of it have failed: {why}", failed.len()))
    }

    /// What it is waiting for.
    pub(super) fn unsettled(&self) -> Option<String> {
        match self.update {
            Some(Update::UPDATING | Update::ROLLBACK_STARTED) => {
                return Some(format!("Swarm is at it: {}", self.message));
            }
            Some(Update::PAUSED | Update::ROLLBACK_PAUSED) => return Some(self.message.clone()),
            _ => {}
        }
        let running = self.running();
        let replicas = self.replicas().map_or_else(|| self.wanted().count(), |n| n as usize);
        if replicas == 0 && running == Running::Nothing {
            return None;
        }
        if running != Running::Release(self.told.clone()) {
            return Some(format!("what runs is {running}"));
        }
        let up = self.up().count();
        if up < replicas {
            return Some(format!("{up} of {replicas} tasks run"));
        }
        let now = Timestamp::now();
        let lately = |task: &&Task| {
            let at = task.status.as_ref().and_then(|status| timestamp(status.timestamp.as_ref()));
            at.is_some_and(|at| now.since(at) < LATELY)
        };
        self.failed().find(lately).map(|_| "a task of it has just failed".to_owned())
    }
}
