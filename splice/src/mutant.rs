//! Defects on purpose, for a test suite that must notice them.
//!
//! Each breaks one promise at the one place where it is kept. There is one list, here in the lowest crate
//! that has any, so that one option chooses among them. Without the feature `mutants` there are none:
//! [`is`] is constant and false. One process has at most one.

macro_rules! mutants {
    ($($list:ident ($about:literal): $($(#[doc = $doc:literal])* $mutant:ident = $name:literal,)*;)*) => {
        /// A defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($($(#[doc = $doc])* $mutant,)*)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$($(Mutant::$mutant),*),*];
            $(#[doc = $about]
            pub const $list: &[Mutant] = &[$(Mutant::$mutant),*];)*

            /// The name that the mount option takes.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Mutant::$mutant => $name,)*)*
                }
            }
        }
    };
}

mutants! {
    RACES ("Those that a race on a mount shows."):
    /// A read does not pin its blocks: freed and given away, they are served all the same.
    SkipBlockPin = "skip-block-pin",
    /// The pin of a read outlives it.
    ForgetPinRelease = "forget-pin-release",
    /// Blocks that were freed under a read stay taken when it is over.
    KeepPinnedBlocks = "keep-pinned-blocks",
    /// A buffer that carried a reply does not return to the pool.
    ForgetBufferRelease = "forget-buffer-release",
    /// WRITE and truncation are answered before they are done.
    ReplyBeforeApply = "reply-before-apply",
    /// A write that another one overtakes is acknowledged and dropped.
    DropQueuedWrite = "drop-queued-write",
    /// The answer to a truncation has the size of before.
    StaleSize = "stale-size",
    /// A truncation keeps the blocks, and their bytes come back when the file grows.
    ResurrectTruncated = "resurrect-truncated",
    /// A truncation frees the blocks and keeps them mapped: whoever gets them next is served.
    ServeForeignBlock = "serve-foreign-block",
    /// A truncation waits for reads that are under way.
    TruncateWaits = "truncate-waits",
    /// A file that grows keeps what an earlier, longer one had in its last block.
    SkipTailZero = "skip-tail-zero",
    /// The rest of a new block keeps what its last owner wrote there.
    SkipEdgeZero = "skip-edge-zero",
    /// A copied read of a hole shows what the buffer had from an earlier use.
    SkipHoleZero = "skip-hole-zero",
    /// A file that loses its last name is deleted although it is open.
    DeleteOpenFile = "delete-open-file",
    /// The direct splice-read replies with whole device blocks, also behind the end of the file.
    LoseTailTrim = "lose-tail-trim",
    /// A pipe that is not empty is used again.
    ReuseDirtyPipe = "reuse-dirty-pipe",
    /// A buffer returns to the pool when it is in the pipe, before the reply was consumed.
    EditAfterVmsplice = "edit-after-vmsplice",
    ;
    CRASHES ("Those that a power cut shows."):
    /// Freed blocks are given away before the commit that frees them.
    ReuseBeforeCommit = "reuse-before-commit",
    /// fsync of a file whose row is unchanged flushes nothing.
    SkipCleanFlush = "skip-clean-flush",
    /// A file without a name that is open is not listed for the next mount.
    ForgetOrphan = "forget-orphan",
    /// The checksums of metadata blocks are written after the flush that covers the blocks.
    LateChecksums = "late-checksums",
    /// A commit uses a piece of the metadata area that no superblock names.
    ForgetPiece = "forget-piece",
    /// The superblock copy that a crash left older or torn is not repaired before the other one is
    /// written.
    SkipSuperblockRepair = "skip-superblock-repair",
    ;
    LOCKS ("Those that a schedule of threads shows."):
    /// Whoever releases a range wakes one of those who wait, not all.
    WakeOneWaiter = "wake-one-waiter",
    /// A commit that was under way counts as one's own.
    JoinRunningCommit = "join-running-commit",
    ;
}

/// Whether this process has the defect.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn is(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// Whether this process has the defect.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(&mutant)
}

/// Gives this process a defect, for as long as it lives; the first call counts.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    let _ = CHOSEN.set(mutant);
}
