//! All tables of a database under check, with their corrections.
//!
//! The checks correct the model as they go, so each one may rely on what earlier ones established.
//! Without repair the corrections are thrown away.

use crate::errno::Result;
use crate::image::fsck::readable::readable;
use crate::image::fsck::report::Findings;
use crate::image::fsck::rows::{
    Counters, Extents, Free, Groups, Inodes, Names, Orphans, Row, Targets, Xattrs,
};
use crate::image::fsck::table::Table;
use crate::image::guard::guard;
use crate::image::tables::Tables;
use redb::{ReadTransaction, TableHandle as _};

/// How much of what a database says is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every page was verified.
    Verified,
    /// Every row is tried first.
    Tried,
}

/// The tables.
pub struct Model {
    /// Table `inodes`.
    pub inodes: Table<Inodes>,
    /// Table `names`.
    pub names: Table<Names>,
    /// Table `extents`.
    pub extents: Table<Extents>,
    /// Table `targets`.
    pub targets: Table<Targets>,
    /// Table `xattrs`.
    pub xattrs: Table<Xattrs>,
    /// Table `orphans`.
    pub orphans: Table<Orphans>,
    /// Table `groups`.
    pub groups: Table<Groups>,
    /// Table `free`.
    pub free: Table<Free>,
    /// Table `counters`.
    pub counters: Table<Counters>,
    /// Some rows could not be read: what they said is lost, and what the others say may be damaged.
    pub incomplete: bool,
}

impl Model {
    /// Opens every table of `txn`; what says which block is whose comes from `strict`, in which
    /// nothing is seen of a block that does not have its checksum.
    pub fn open(
        txn: &ReadTransaction,
        strict: Option<&ReadTransaction>,
        trust: Trust,
        findings: &mut Findings,
    ) -> Model {
        let mut o = Opener { txn: Some(txn), trust, findings, incomplete: false };
        let (inodes, names, targets) = (o.table(), o.table(), o.table());
        let (xattrs, orphans, counters) = (o.table(), o.table(), o.table());
        if trust == Trust::Tried {
            o.txn = strict;
        }
        let (extents, groups, free) = (o.table(), o.table(), o.table());
        let incomplete = o.incomplete || trust == Trust::Tried;
        Model {
            inodes,
            names,
            extents,
            targets,
            xattrs,
            orphans,
            groups,
            free,
            counters,
            incomplete,
        }
    }

    /// Writes all corrections to the tables that were read.
    ///
    /// # Errors
    /// Those of the database.
    pub fn store(&self, tables: &mut Tables<'_>) -> Result<()> {
        self.inodes.store(&mut tables.inodes)?;
        self.names.store(&mut tables.names)?;
        self.extents.store(&mut tables.extents)?;
        self.targets.store(&mut tables.targets)?;
        self.xattrs.store(&mut tables.xattrs)?;
        self.orphans.store(&mut tables.orphans)?;
        self.groups.store(&mut tables.groups)?;
        self.free.store(&mut tables.free)?;
        self.counters.store(&mut tables.counters)
    }
}

struct Opener<'a> {
    txn: Option<&'a ReadTransaction>,
    trust: Trust,
    findings: &'a mut Findings,
    incomplete: bool,
}

impl Opener<'_> {
    fn table<R: Row>(&mut self) -> Table<R> {
        let object = format!("table {}", R::TABLE.name());
        let Some(txn) = self.txn else {
            let problem = "can only be read from blocks without their checksums";
            self.findings.error(object, problem, "it is made anew");
            self.incomplete = true;
            return Table::new(None, None);
        };
        let source = match guard(&object, || Ok(txn.open_table(R::TABLE)?)) {
            Ok(source) => source,
            Err(e) => {
                self.incomplete = true;
                self.findings.error(object, e.to_string(), "it is made anew");
                return Table::new(None, None);
            }
        };
        if self.trust == Trust::Verified {
            return Table::new(Some(source), None);
        }
        let (readable, problem) = readable::<R>(&object, &source);
        if let Some(e) = problem {
            self.incomplete = true;
            self.findings.error(object, e.to_string(), "the rows that can be read are kept");
        }
        Table::new(Some(source), Some(readable))
    }
}
