//! Which combinations of the matrix mean something, and why the others do not.

use inflight_gate::Phase;

use super::Cell;
use super::action::Action;
use super::buffer::Kind;
use super::io::Call;
use crate::kit::engine::{Engine, Way};

/// A reason for which combinations are not played. The first that speaks against one is the one that counts.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Why.
    pub reason: &'static str,
    /// Which.
    pub excludes: fn(&Cell) -> bool,
}

/// The rule that takes a combination out, if one does.
pub fn against(cell: &Cell) -> Option<&'static Rule> {
    RULES.iter().find(|rule| (rule.excludes)(cell))
}

fn is(cell: &Cell, engine: Engine) -> bool {
    cell.op.call == Call::Engine(engine)
}

fn is_read(cell: &Cell) -> bool {
    cell.op.way == Way::Read
}

fn has_memory(cell: &Cell) -> bool {
    cell.kind != Kind::Nothing
}

fn is_in_kernel(cell: &Cell) -> bool {
    cell.phase == Phase::Copying
}

fn is_plain(cell: &Cell) -> bool {
    matches!(cell.kind, Kind::Nothing | Kind::Anon)
}

/// Kinds of memory that stand for all where the data goes to it.
fn is_common(cell: &Cell) -> bool {
    matches!(cell.kind, Kind::Anon | Kind::Thp | Kind::Shared | Kind::OtherMap)
}

/// The rules, in order: first what cannot be, then what says nothing that another combination does not say.
pub const RULES: &[Rule] = &[
    Rule {
        reason: "splice, sendfile, copies and faults have no user memory; the other calls need some",
        excludes: |cell| cell.op.call.engine().is_some() != has_memory(cell),
    },
    Rule {
        reason: "the answer to a write carries no data: it is never in a pipe",
        excludes: |cell| !is_read(cell) && cell.phase == Phase::Piped,
    },
    Rule {
        reason: "in the kernel a request holds memory and the server has nothing of it, or no more to do: only memory of direct calls can tell",
        excludes: |cell| {
            let tells = cell.action.is_on_memory() && cell.op.is_direct() && has_memory(cell);
            is_in_kernel(cell) && !tells
        },
    },
    Rule {
        reason: "a part of what is read had arrived before a fork in the middle of its copy: it is the child's too",
        excludes: |cell| {
            use Action::{Fork, ForkDead, Vfork};
            let forks = matches!(cell.action, Fork | ForkDead | Vfork);
            is_read(cell) && is_in_kernel(cell) && forks
        },
    },
    Rule {
        reason: "the middle of a copy is sampled: a thread's call stands for all, and common memory for all that is read into",
        excludes: |cell| {
            is_in_kernel(cell) && (!is(cell, Engine::Read) || is_read(cell) && !is_common(cell))
        },
    },
    Rule {
        reason: "RWF_DSYNC and RWF_APPEND are about writes",
        excludes: |cell| is_read(cell) && (is(cell, Engine::Dsync) || is(cell, Engine::Append)),
    },
    Rule {
        reason: "a read into read-only memory is refused (EFAULT)",
        excludes: |cell| is_read(cell) && cell.kind == Kind::ReadOnly,
    },
    Rule {
        reason: "io_uring refuses to register shared mappings of files, and read-only memory (RB3 shows it)",
        excludes: |cell| is(cell, Engine::Fixed) && cell.kind.is_mapped_file(),
    },
    Rule {
        reason: "RWF_NOWAIT fails where the page cache would have to wait: nothing is in flight",
        excludes: |cell| is(cell, Engine::Nowait) && !cell.op.is_direct(),
    },
    Rule {
        reason: "RWF_DONTCACHE is about the page cache, and a direct I/O has none",
        excludes: |cell| is(cell, Engine::Dontcache) && cell.op.is_direct(),
    },
    Rule {
        reason: "a fault is always through the page cache",
        excludes: |cell| cell.op.call == Call::Fault && cell.op.is_direct(),
    },
    Rule {
        reason: "a copy is one request with two files: it is played as a read of the page cache",
        excludes: |cell| cell.op.call == Call::Copy && (!is_read(cell) || cell.op.is_direct()),
    },
    Rule {
        reason: "a copy is one step in a FUSE server, without buffers and without a pipe",
        excludes: |cell| {
            cell.op.call == Call::Copy && matches!(cell.phase, Phase::Prepared | Phase::Piped)
        },
    },
    Rule {
        reason: "what happens to memory does not meet an I/O that holds none",
        excludes: |cell| cell.action.is_on_memory() && !has_memory(cell),
    },
    Rule {
        reason: "a cached write has left its memory before anything is in flight",
        excludes: |cell| {
            !is_read(cell)
                && !cell.op.is_direct()
                && (cell.action.is_on_memory() || !is_plain(cell))
        },
    },
    Rule {
        reason: "the pages of a stack cannot go: their thread lives on it",
        excludes: |cell| {
            let goes = matches!(cell.action, Action::Munmap | Action::Dontneed | Action::Mremap);
            goes && cell.kind == Kind::Stack
        },
    },
    Rule {
        reason: "nothing can be stored to read-only memory",
        excludes: |cell| {
            let stores = matches!(cell.action, Action::Store | Action::Mprotect);
            cell.kind == Kind::ReadOnly && stores
        },
    },
    Rule {
        reason: "a process that waits in a call cannot exit or execute another program by itself",
        excludes: |cell| matches!(cell.action, Action::Exit | Action::Exec) && !cell.op.is_async(),
    },
    Rule {
        reason: "a cached write has returned when its process ends or its connection is aborted",
        excludes: |cell| {
            let ends =
                cell.action.ends_process() || matches!(cell.action, Action::Abort | Action::Close);
            ends && !is_read(cell) && !cell.op.is_direct()
        },
    },
    Rule {
        reason: "where an append goes moves with the end of the file: IV2 plays that",
        excludes: |cell| is(cell, Engine::Append) && cell.action.is_on_file(),
    },
    Rule {
        reason: "the first access of a read makes untouched memory an anonymous page like any other",
        excludes: |cell| is_read(cell) && cell.kind == Kind::Zero,
    },
    Rule {
        reason: "a cached read copies to memory at its end: how far the server is makes no difference to memory",
        excludes: |cell| {
            let early = cell.phase == Phase::Received;
            is_read(cell) && !cell.op.is_direct() && cell.action.is_on_memory() && !early
        },
    },
    Rule {
        reason: "write-back does not know which call dirtied the page: one stands for all",
        excludes: |cell| {
            let others = [Engine::Readv, Engine::Hipri, Engine::Aio, Engine::Uring, Engine::Fixed];
            !is_read(cell) && !cell.op.is_direct() && others.iter().any(|&engine| is(cell, engine))
        },
    },
    Rule {
        reason: "what happens to the file does not depend on the kind of memory (unless it is the file's own)",
        excludes: |cell| {
            let own = cell.kind == Kind::SelfMap && cell.op.is_direct();
            cell.action.is_on_file() && !is_plain(cell) && !own
        },
    },
    Rule {
        reason: "a flag says how a call waits, not how its memory is held: plain memory stands for all",
        excludes: |cell| cell.op.call.is_flagged() && !is_plain(cell),
    },
    Rule {
        reason: "a child that shares the memory copies no kind of it: plain memory stands for all",
        excludes: |cell| cell.action == Action::Vfork && !is_plain(cell),
    },
    Rule {
        reason: "who is told of the end does not depend on the kind of memory: private and shared pages stand for all",
        excludes: |cell| {
            let told =
                cell.action.ends_process() || matches!(cell.action, Action::Close | Action::Abort);
            told && !is_plain(cell) && cell.kind != Kind::Shared
        },
    },
    Rule {
        reason: "a process that ends, or closes its file, matters to I/O that holds its memory: direct calls stand for all",
        excludes: |cell| {
            let leaves = cell.action.ends_process() || cell.action == Action::Close;
            leaves && (!cell.op.is_direct() || !has_memory(cell) || cell.op.call.is_flagged())
        },
    },
    Rule {
        reason: "an abort costs a mount: one call of each path stands for all",
        excludes: |cell| {
            let told = has_memory(cell) && cell.op.is_direct() || cell.phase == Phase::Received;
            let extra = cell.op.call.is_flagged() || is(cell, Engine::Readv) || !is_plain(cell);
            cell.action == Action::Abort && (!told || extra)
        },
    },
    Rule {
        reason: "only io_uring takes an I/O back, and plain memory can tell",
        excludes: |cell| {
            let rings = is(cell, Engine::Uring) || is(cell, Engine::Fixed);
            cell.action == Action::Cancel && !(rings && is_plain(cell))
        },
    },
    Rule {
        reason: "an fsync and another write beside it are sampled: direct I/O of a thread, of AIO and of io_uring on plain memory",
        excludes: |cell| {
            let sampled = [Engine::Read, Engine::Aio, Engine::Uring];
            let is_sampled = sampled.iter().any(|&engine| is(cell, engine));
            matches!(cell.action, Action::Fsync | Action::Overwrite)
                && !(is_sampled && is_plain(cell) && cell.op.is_direct())
        },
    },
    Rule {
        reason: "UFFDIO_MOVE and KSM take private anonymous base pages; a thread's call, io_uring's and registered memory stand for all",
        excludes: |cell| {
            let sampled = [Engine::Read, Engine::Uring, Engine::Fixed];
            let is_sampled = sampled.iter().any(|&engine| is(cell, engine));
            matches!(cell.action, Action::Move | Action::Merge)
                && !(is_sampled && cell.kind == Kind::Anon)
        },
    },
    Rule {
        reason: "reclaim, compaction and KSM look at pages, not at requests: one phase stands for all",
        excludes: |cell| {
            matches!(cell.action, Action::Pageout | Action::Compact | Action::Merge)
                && cell.phase != Phase::Received
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{cells, product};

    #[test]
    fn every_rule_takes_something_out_and_every_part_is_played() {
        for rule in RULES {
            let taken = product().any(|(_, by)| by.is_some_and(|by| by.reason == rule.reason));
            assert!(taken, "no combination needs it: {}", rule.reason);
        }
        for action in Action::ALL {
            assert!(cells().iter().any(|cell| cell.action == action), "{action:?}");
        }
        for kind in Kind::ALL {
            assert!(cells().iter().any(|cell| cell.kind == kind), "{kind:?}");
        }
        for phase in Phase::ALL.into_iter().chain([Phase::Copying]) {
            assert!(cells().iter().any(|cell| cell.phase == phase), "{phase:?}");
        }
    }
}
