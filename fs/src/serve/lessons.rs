//! What the gate learns of names: rules that name files by a pattern mean what has such a name when a request comes.

use super::server::Server;
use inflight_fuse::{Name, Operation, Reply, Request};

/// What a request does to names if it succeeds. None is taken where no gate would learn it.
pub(super) enum Lesson {
    Entry(u64, Name),
    Removed(u64, Name),
    Renamed { from: (u64, Name), to: (u64, Name), exchange: bool },
    Forgotten(Vec<(u64, u64)>),
}

/// The names that a request is about, each with its directory.
pub(super) fn names(request: &Request) -> Vec<(u64, Name)> {
    let dir = request.header.nodeid;
    match &request.operation {
        Operation::Rename(rename) | Operation::Rename2(rename) => {
            vec![(dir, rename.name.clone()), (rename.new_parent, rename.new_name.clone())]
        }
        Operation::Unlink { name } | Operation::Rmdir { name } => vec![(dir, name.clone())],
        operation => entry(operation).map(|name| (dir, name.clone())).into_iter().collect(),
    }
}

/// The name of the entry that is answered.
fn entry(operation: &Operation) -> Option<&Name> {
    match operation {
        Operation::Lookup { name }
        | Operation::Symlink { name, .. }
        | Operation::Link { name, .. } => Some(name),
        Operation::Mknod { node, .. } | Operation::Mkdir(node) => Some(&node.name),
        Operation::Create(create) => Some(&create.name),
        _ => None,
    }
}

impl Lesson {
    pub fn of(server: &Server, request: &Request) -> Option<Lesson> {
        server.gate()?;
        let dir = request.header.nodeid;
        match &request.operation {
            Operation::Unlink { name } | Operation::Rmdir { name } => {
                Some(Lesson::Removed(dir, name.clone()))
            }
            Operation::Rename(rename) | Operation::Rename2(rename) => Some(Lesson::Renamed {
                from: (dir, rename.name.clone()),
                to: (rename.new_parent, rename.new_name.clone()),
                exchange: rename.flags & libc::RENAME_EXCHANGE != 0,
            }),
            Operation::Forget { nlookup } => Some(Lesson::Forgotten(vec![(dir, *nlookup)])),
            Operation::BatchForget(list) => {
                let nodes = list.iter().map(|forget| (forget.nodeid, forget.nlookup));
                Some(Lesson::Forgotten(nodes.collect()))
            }
            operation => entry(operation).map(|name| Lesson::Entry(dir, name.clone())),
        }
    }

    /// Before the answer is sent: the next request may be about it already.
    pub fn learn(lesson: Option<Lesson>, server: &Server, reply: Option<&Reply>) {
        let (Some(lesson), Some(gate), Some(reply)) = (lesson, server.gate(), reply) else {
            return;
        };
        gate.learn(|names| match lesson {
            Lesson::Entry(dir, name) => match reply {
                // Number 0 says that there is no such name.
                Reply::Entry(entry) | Reply::Created { entry, .. } if entry.nodeid != 0 => {
                    names.entry(dir, name.as_bytes(), entry.nodeid);
                }
                _ => {}
            },
            Lesson::Removed(dir, name) => names.removed(dir, name.as_bytes()),
            Lesson::Renamed { from, to, exchange } => {
                let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
                names.renamed(from, to, exchange);
            }
            Lesson::Forgotten(nodes) => {
                nodes.into_iter().for_each(|(node, lookups)| names.forgotten(node, lookups));
            }
        });
    }
}

/// An entry of a directory was answered with its attributes, which counts as a lookup.
pub(super) fn listed(server: &Server, dir: u64, entry: &crate::volume::DirEntry) {
    if let Some(gate) = server.gate() {
        gate.learn(|names| names.entry(dir, &entry.name, entry.ino));
    }
}
