//! The guided tour: what the races show, one paragraph and a few variants each.

use crate::plan::{self, Item, Wanted};

/// A stop of the tour.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// Short name of the case.
    pub case: &'static str,
    /// Variants that are shown, as a pattern.
    pub variants: &'static str,
    /// What to look for.
    pub text: &'static str,
}

/// The tour, in order.
pub const STOPS: [Stop; 7] = [
    Stop {
        case: "SP2",
        variants: "*",
        text: "Splice without ITER_PIPE. A file is spliced into a pipe, then overwritten, then the pipe is read.\n\
               Buffered, the pipe holds the page cache's own pages and shows the new bytes; with O_DIRECT it holds\n\
               pages that were allocated before the read, and shows the old ones. The flag decides at each call.",
    },
    Stop {
        case: "SP5",
        variants: "short-4097/direct_io|eof-4097|truncate-4097/received|truncate-4097/applied",
        text: "Short reads and truncates under a splice. The pages were allocated for 64 KiB; what was not read must\n\
               be trimmed. The old way, an iterator over the pipe that was reverted, is where the bug was.",
    },
    Stop {
        case: "TR1",
        variants: "read/pread/*|fault/*",
        text: "Truncate against a read. The server holds the READ; the file is cut to nothing and extended again;\n\
               then the READ is answered, late, with bytes that are no longer in the file.",
    },
    Stop {
        case: "FK1",
        variants: "store/uring/anon|store/uring/thp|no-store*|spawn*",
        text: "Fork against a direct read. While the READ is held the process forks and stores to the other half of\n\
               the page. A pinned page (FOLL_PIN) is copied for the child at once, so both have a page of their own;\n\
               a page that is only referenced is copied for whoever stores first, and the data goes to the other.\n\
               Before Linux 6.9 this lost the data on FUSE, before 6.5 on ext4 and xfs.",
    },
    Stop {
        case: "FK2",
        variants: "child-exited/*",
        text: "The same with no store at all: two reads into one page, a fork between them.",
    },
    Stop {
        case: "SP1",
        variants: "*",
        text: "A bug that this kernel may have: splice of a file that is served without cache. read(2) returns what\n\
               the server has now; splice returns what it once had.",
    },
    Stop {
        case: "TR2",
        variants: "async/*",
        text: "Another one: a truncate that overtakes an asynchronous write. The server has the data, and fstat\n\
               says that the file is empty.",
    },
];

/// The variants of the tour, in its order.
///
/// # Errors
/// A stop names a variant that does not exist.
pub fn items() -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for stop in &STOPS {
        let cases = vec![format!("{}:{}", stop.case, stop.variants)];
        items.extend(plan::plan(&Wanted { cases, ..Wanted::default() })?);
    }
    for (number, item) in items.iter_mut().enumerate() {
        item.number = number as u64;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stop_has_variants() {
        let items = items().unwrap();
        for stop in &STOPS {
            assert!(items.iter().any(|item| item.case == stop.case), "{}", stop.case);
        }
    }
}
