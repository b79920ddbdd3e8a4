//! All tables of a database under check, with their corrections.
//!
//! The checks correct the model as they go, so each one may rely on what earlier ones established.
//! Without repair the corrections are thrown away.

use crate::errno::Result;
use crate::fsck::leaves::Leaves;
use crate::fsck::report::Findings;
use crate::fsck::rows::{
    Counters, Extents, Free, Groups, Inodes, Names, Orphans, Row, Targets, Xattrs,
};
use crate::fsck::salvage::Salvage;
use crate::fsck::table::{Source, Table};
use crate::image::guard::guard;
use crate::image::tables::Tables;
use redb::{ReadTransaction, TableHandle as _};

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
    /// Opens every table of a database that was verified.
    pub fn open(txn: &ReadTransaction, findings: &mut Findings) -> Model {
        let mut o = Opener { findings, incomplete: false };
        let mut m = Model {
            inodes: o.open(txn),
            names: o.open(txn),
            extents: o.open(txn),
            targets: o.open(txn),
            xattrs: o.open(txn),
            orphans: o.open(txn),
            groups: o.open(txn),
            free: o.open(txn),
            counters: o.open(txn),
            incomplete: false,
        };
        m.incomplete = o.incomplete;
        m
    }

    /// Takes what could be found of every table.
    pub fn salvaged(found: Salvage, findings: &mut Findings) -> Model {
        let mut o = Opener { findings, incomplete: false };
        Model {
            inodes: o.take(found.inodes),
            names: o.take(found.names),
            extents: o.take(found.extents),
            targets: o.take(found.targets),
            xattrs: o.take(found.xattrs),
            orphans: o.take(found.orphans),
            groups: o.take(found.groups),
            free: o.take(found.free),
            counters: o.take(found.counters),
            incomplete: true,
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
    findings: &'a mut Findings,
    incomplete: bool,
}

impl Opener<'_> {
    fn open<R: Row>(&mut self, txn: &ReadTransaction) -> Table<R> {
        let object = format!("table {}", R::TABLE.name());
        match guard(&object, || Ok(txn.open_table(R::TABLE)?)) {
            Ok(table) => Table::new(Source::Database(Box::new(table))),
            Err(e) => {
                self.incomplete = true;
                self.findings.error(object, e.to_string(), "it is made anew");
                Table::new(Source::Nothing)
            }
        }
    }

    fn take<R: Row>(&mut self, leaves: Leaves<R>) -> Table<R> {
        let object = format!("table {}", R::TABLE.name());
        if leaves.has_gaps() {
            let (problem, remedy) = match leaves.len() {
                0 => ("cannot be read", "it is made anew"),
                _ => ("is damaged", "the rows that can be read are kept"),
            };
            self.findings.error(object, problem, remedy);
        }
        Table::new(Source::Leaves(leaves))
    }
}
