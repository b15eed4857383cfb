//! Faults that are planted on purpose, each the breach of one rule: a simulation that does not find every one of them proves nothing.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Every rule holds.
    Nothing,
    /// A table takes a commit whose transactions stand elsewhere.
    NoCompareAndSet,
    /// A store begins at the log's low watermark without a word.
    SilentLoss,
    /// The family's version is written before that of `quarantine`.
    FamilyFirst,
    /// A store does not ask what `quarantine` has already.
    QuarantinedAgain,
    /// A store tells the log what is stored before it is.
    ToldTooEarly,
    /// A store does not compare the last stored record with the log's.
    NoComparison,
    /// A store does not ask whose the tables are.
    NoOwner,
    /// What the log delivers again is not skipped.
    NothingSkipped,
    /// A reader is given what is not committed.
    ReadUncommitted,
    /// The log does not fence an earlier writer.
    NoFence,
    /// Records and position are two transactions.
    PositionApart,
    /// A page is compared with what was known before its writer was taken.
    StaleStates,
    /// What is known is set in a transaction of its own.
    StatesApart,
    /// An ingest does not look again after it has fenced others.
    NoSecondLook,
    /// An ingest goes on as its own writer without asking whether another one was faster.
    NoThirdLook,
}

impl Plant {
    /// Every fault.
    #[cfg(test)]
    pub const FAULTS: [Plant; 15] = [
        Plant::NoCompareAndSet,
        Plant::SilentLoss,
        Plant::FamilyFirst,
        Plant::QuarantinedAgain,
        Plant::ToldTooEarly,
        Plant::NoComparison,
        Plant::NoOwner,
        Plant::NothingSkipped,
        Plant::ReadUncommitted,
        Plant::NoFence,
        Plant::PositionApart,
        Plant::StaleStates,
        Plant::StatesApart,
        Plant::NoSecondLook,
        Plant::NoThirdLook,
    ];
}
