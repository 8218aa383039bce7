//! One kind of object, followed: a list, then watches from there on, each for a bounded time, and a list again where the
//! server has forgotten what came before.
//!
//! Not kube's own watcher: it keeps to itself that a quiet watch is alive, and without that nobody can say how old what was
//! seen is.

use super::table::{Kept, Table, Version, place};
use crate::{
    connect::{Cluster, PAGE},
    error::Request,
    kinds::ObjectKind,
};
use futures::{StreamExt as _, pin_mut};
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
    runtime::{utils::Backoff as _, watcher::DefaultBackoff},
};
use rollback_core::{Error, Kind, Nudger, Result};
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

/// What happened while a watch was away comes all at once when it is back: only what comes later shows that it is up to
/// date.
const CATCHING_UP: Duration = Duration::from_secs(1);
/// A watch that the server should have ended by now is dead.
const OVERDUE: Duration = Duration::from_secs(3);
/// Between attempts, at the most.
const PAUSE: Duration = Duration::from_secs(5);

/// A kind of object, as watches have shown it.
#[derive(Debug)]
pub(crate) struct Feed<T: Kept> {
    /// Without watches: for what a list needs.
    cluster: Cluster,
    kind: ObjectKind,
    /// `None`: all.
    namespace: Option<String>,
    api: Api<T::Object>,
    /// How long one watch lasts. Its end is a sign of life.
    lasts: Duration,
    state: Mutex<State<T>>,
    /// Whether all is listed and watched, or what that failed with.
    first: watch::Sender<First>,
}

/// What became of the beginning.
type First = Option<std::result::Result<(), rollback_core::Fault>>;

#[derive(Debug)]
struct State<T> {
    table: Table<T>,
    /// The table is at least as new as this.
    alive: Option<Instant>,
}

/// Why a watch ended before its time.
enum Ended {
    /// What comes after that version is not known any more.
    Gone,
    Failed(Error),
}

impl<T: Kept> Feed<T> {
    pub(super) fn new(
        cluster: &Cluster,
        kind: ObjectKind,
        namespace: Option<&str>,
        api: Api<T::Object>,
        lasts: Duration,
    ) -> Self {
        let state = Mutex::new(State { table: Table::default(), alive: None });
        let (cluster, namespace) = (cluster.without_watches(), namespace.map(Into::into));
        Self { cluster, kind, namespace, api, lasts, state, first: watch::Sender::new(None) }
    }
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What is there, if it is no older than that.
    pub(super) fn read<R>(&self, age: Duration, read: impl FnOnce(&Table<T>) -> R) -> Option<R> {
        let state = self.state();
        state.alive.filter(|alive| alive.elapsed() <= age)?;
        Some(read(&state.table))
    }
    /// Tells whenever what is found by what this gives becomes another, for as long as somebody listens.
    pub(super) fn tell_of(&self, by: impl FnOnce(&Table<T>) -> Option<String>, nudger: Nudger) {
        let mut state = self.state();
        if let Some(by) = by(&state.table) {
            state.table.tell_of(by, nudger);
        }
    }
    /// A later state of an object that is known.
    pub(super) fn renew(&self, object: T::Object) {
        self.state().table.renew(object);
    }
    /// Waits until all is listed, and watched.
    pub(super) async fn first(&self) -> Result<()> {
        let mut first = self.first.subscribe();
        let first = first.wait_for(Option::is_some).await;
        match first.ok().and_then(|first| first.clone()) {
            Some(Err(fault)) => Err(fault.into()),
            _ => Ok(()),
        }
    }

    /// Follows for as long as it is polled.
    pub(super) async fn follow(&self) {
        let mut pause = DefaultBackoff::default();
        loop {
            match self.list(Table::put).await {
                Ok(version) => self.watch_from(version, &mut pause).await,
                Err(e) => {
                    self.begun(Err(e));
                    sleep(pause.next().unwrap_or(PAUSE).min(PAUSE)).await;
                }
            }
        }
    }

    /// What became of the beginning, for whoever waits for it.
    fn begun(&self, begun: Result<()>) {
        self.first.send_if_modified(|first| {
            let news = first.is_none();
            if news {
                *first = Some(begun.map_err(Error::into_fault));
            }
            news
        });
    }

    /// Lists what is there now, page by page: later states stay, what is not there goes.
    pub(super) async fn list<R>(&self, take: impl Fn(&mut Table<T>, T::Object) -> R) -> Result<String> {
        let began = Instant::now();
        let request = self.request("list", "list what is watched");
        let (mut params, mut there) = (ListParams::default().limit(PAGE), HashSet::new());
        let version = loop {
            let page = {
                let _turn = self.cluster.turn().await;
                self.cluster.within(self.cluster.reply_within(), &request, self.api.list(&params)).await?
            };
            {
                let mut state = self.state();
                for object in page.items {
                    there.extend(place(T::metadata(&object)).map(|(key, _)| key));
                    take(&mut state.table, object);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break page.metadata.resource_version.unwrap_or_default(),
            }
        };
        let at = Version::of(&version).ok_or_else(|| {
            Error::new(Kind::Unexpected, request.operation)
                .with_message("its versions are no numbers: nobody can tell which of two states came first")
                .without_effect()
        })?;
        let mut state = self.state();
        state.table.keep_only(&there, at);
        state.alive = state.alive.max(Some(began));
        Ok(version)
    }

    /// Watches from that version on, one watch after the other, until the server has forgotten what came after.
    async fn watch_from(&self, mut version: String, pause: &mut DefaultBackoff) {
        loop {
            match self.watch(&mut version).await {
                Ok(()) => pause.reset(),
                Err(Ended::Gone) => return,
                // How long it has been so shows in how old what was seen is: whoever reads goes by that.
                Err(Ended::Failed(e)) => {
                    self.begun(Err(e));
                    sleep(pause.next().unwrap_or(PAUSE).min(PAUSE)).await;
                }
            }
        }
    }

    /// One watch, until the server ends it in time.
    async fn watch(&self, version: &mut String) -> Result<(), Ended> {
        let began = Instant::now();
        let request = self.request("watch", "watch");
        let failed = |e| Ended::Failed(self.cluster.called(request.failed(e)));
        let seconds = u32::try_from(self.lasts.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().timeout(seconds);
        let started = timeout(self.cluster.reply_within(), self.api.watch(&params, version)).await;
        let events = match started {
            Ok(Ok(events)) => events,
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return Err(Ended::Gone),
            Ok(Err(e)) => return Err(failed(e)),
            Err(_) => return Err(Ended::Failed(self.cluster.called(request.too_late(self.cluster.reply_within())))),
        };
        self.begun(Ok(()));
        pin_mut!(events);
        let overdue = began + self.lasts + OVERDUE;
        loop {
            let Ok(event) = timeout_at(overdue, events.next()).await else {
                return Err(Ended::Failed(self.cluster.called(request.too_late(began.elapsed()))));
            };
            let event = match event {
                // Ended in time and in order, so all that happened before was told.
                None if began.elapsed() + CATCHING_UP >= self.lasts => {
                    self.state().alive = Some(Instant::now());
                    return Ok(());
                }
                None => {
                    let e = Error::new(Kind::Unavailable, request.operation).with_message("the watch broke off");
                    return Err(Ended::Failed(e.without_effect()));
                }
                Some(Ok(event)) => event,
                Some(Err(e)) => return Err(failed(e)),
            };
            let mut state = self.state();
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    reach(version, T::metadata(&object).resource_version.as_ref());
                    state.table.put(object);
                }
                WatchEvent::Deleted(object) => {
                    reach(version, T::metadata(&object).resource_version.as_ref());
                    state.table.remove(T::metadata(&object));
                }
                WatchEvent::Bookmark(bookmark) => reach(version, Some(&bookmark.metadata.resource_version)),
                WatchEvent::Error(status) if status.code == 410 => return Err(Ended::Gone),
                WatchEvent::Error(status) => return Err(failed(kube::Error::Api(status))),
            }
            if began.elapsed() >= CATCHING_UP {
                state.alive = Some(Instant::now());
            }
        }
    }

    fn request<'a>(&'a self, verb: &'static str, operation: &'a str) -> Request<'a> {
        Request { operation, verb, kind: self.kind, namespace: self.namespace.as_deref(), name: "" }
    }
}

fn reach(version: &mut String, reached: Option<&String>) {
    if let Some(reached) = reached.filter(|reached| !reached.is_empty()) {
        version.clone_from(reached);
    }
}
