//! What can go wrong, and where.

/// A kind of fault that the simulator injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The process is gone at an await; its lease is let go.
    Crash,
    /// The process is killed: nothing of it runs any more, not even to let go of the lease.
    Kill,
    /// The process stands still for longer than its lease lasts.
    Pause,
    /// The wall clock jumps by an hour.
    ClockJump,
    /// A call fails, and had no effect.
    Transient,
    /// A write never arrives, and its answer is lost.
    LostRequest,
    /// A write arrives, and its answer is lost.
    LostAnswer,
    /// A write fails, and happens later all the same.
    LateEffect,
    /// An answer takes long.
    LateAnswer,
    /// An answer never comes.
    NoAnswer,
    /// A write arrives twice.
    Duplicate,
    /// A write is refused although nobody was there first.
    Conflict,
    /// A read shows how it was before.
    StaleRead,
    /// The platform answers nothing for a while.
    PlatformDown,
    /// Credentials are lost for a while.
    Denied,
    /// Health cannot be found out for a while.
    MetricsDown,
    /// Health cannot be found out once.
    UnknownHealth,
    /// An append fails, and had no effect.
    JournalFails,
    /// An append is durable, and its answer is lost.
    JournalLost,
    /// The journal takes long.
    JournalSlow,
    /// The journal takes nothing for a while.
    DiskFull,
    /// A line of an adopted run is missing.
    JournalDamaged,
    /// A second run of the same target.
    SecondRun,
    /// Somebody breaks the glass meanwhile.
    BreakGlass,
    /// Somebody deploys a new release.
    HumanDeploys,
    /// Somebody edits by hand what runs.
    HumanEdits,
    /// Somebody deploys a known release again.
    HumanRestores,
    /// A pipeline deploys the bad release again and again.
    GitOps,
    /// The object is made anew under the same name.
    Recreated,
    /// The release to go to is garbage-collected.
    Collected,
    /// Instances die for a while.
    InstancesDie,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 31] = [
        Fault::Crash,
        Fault::Kill,
        Fault::Pause,
        Fault::ClockJump,
        Fault::Transient,
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::LateEffect,
        Fault::LateAnswer,
        Fault::NoAnswer,
        Fault::Duplicate,
        Fault::Conflict,
        Fault::StaleRead,
        Fault::PlatformDown,
        Fault::Denied,
        Fault::MetricsDown,
        Fault::UnknownHealth,
        Fault::JournalFails,
        Fault::JournalLost,
        Fault::JournalSlow,
        Fault::DiskFull,
        Fault::JournalDamaged,
        Fault::SecondRun,
        Fault::BreakGlass,
        Fault::HumanDeploys,
        Fault::HumanEdits,
        Fault::HumanRestores,
        Fault::GitOps,
        Fault::Recreated,
        Fault::Collected,
        Fault::InstancesDie,
    ];
}

/// What a process was at when a fault hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Beginning or adopting the run.
    Begin,
    /// Appending to the journal.
    Append,
    /// Reading the target.
    Observe,
    /// Reading the history and the ledger.
    History,
    /// Making a change ready.
    Prepare,
    /// Stopping whoever would deploy again, or looking whether they are stopped.
    Freeze,
    /// Writing a release.
    Release,
    /// Writing weights.
    Traffic,
    /// Writing capacity.
    Capacity,
    /// Aborting what is in flight.
    Abort,
    /// Checking the health.
    Check,
    /// Verifying.
    Verify,
}

impl Stage {
    /// It writes: few do, and they matter most.
    pub(super) fn writes(self) -> bool {
        matches!(self, Stage::Freeze | Stage::Release | Stage::Traffic | Stage::Capacity | Stage::Abort)
    }
    /// All of them.
    pub const ALL: [Stage; 12] = [
        Stage::Begin,
        Stage::Append,
        Stage::Observe,
        Stage::History,
        Stage::Prepare,
        Stage::Freeze,
        Stage::Release,
        Stage::Traffic,
        Stage::Capacity,
        Stage::Abort,
        Stage::Check,
        Stage::Verify,
    ];
}
