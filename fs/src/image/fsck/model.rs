//! All rows of the database in memory, and how a corrected model is written back.
//!
//! The checks correct the model as they go, so each one may rely on what earlier ones established.
//! Without repair the corrected model is thrown away. About 300 bytes of memory an inode.

use crate::errno::{Error, Result};
use crate::image::fsck::bitmaps::Bitmaps;
use crate::image::fsck::report::Findings;
use crate::image::guard::guard;
use crate::image::tables::{
    self, Attr, COUNTERS, EXTENTS, Extent, FREE, GROUPS, INODE_MAX, INODES, InodeRow, NAMES,
    ORPHANS, TARGETS, Tables, XATTRS,
};
use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTable as _, TableDefinition};
use redb::{TableHandle as _, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::IntoBytes as _;

/// The rows, decoded.
#[derive(Debug, Default)]
pub struct Model {
    /// Table `inodes`.
    pub inodes: BTreeMap<u64, Attr>,
    /// Table `names`: key to child and DT_* type.
    pub names: BTreeMap<Vec<u8>, (u64, u8)>,
    /// Table `extents`.
    pub extents: BTreeMap<(u64, u64), Extent>,
    /// Table `targets`.
    pub targets: BTreeMap<u64, Vec<u8>>,
    /// Table `xattrs`.
    pub xattrs: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    /// Table `orphans`.
    pub orphans: BTreeSet<u64>,
    /// Tables `groups` and `free`.
    pub bitmaps: Bitmaps,
    /// Table `counters`.
    pub counters: BTreeMap<String, u64>,
    /// Some rows could not be read: what they said is lost, and what the others say may be damaged.
    pub incomplete: bool,
}

/// Makes a table equal to a map: `$own` turns a row into the map's types, `$lend` the reverse.
macro_rules! sync {
    ($table:expr, $want:expr, |$k:ident, $v:ident| $own:expr, |$a:ident, $b:ident| $lend:expr) => {{
        let (mut same, mut stale) = (BTreeSet::new(), Vec::new());
        for row in $table.iter()? {
            let (key, value) = row?;
            let ($k, $v) = (key.value(), value.value());
            let (own_key, own_value) = $own;
            match $want.get(&own_key) {
                Some(want) if *want == own_value => drop(same.insert(own_key)),
                Some(_) => {}
                None => stale.push((own_key, own_value)),
            }
        }
        for ($a, $b) in stale.iter().map(|(k, v)| (k, v)) {
            $table.remove($lend.0)?;
        }
        for ($a, $b) in $want.iter().filter(|(k, _)| !same.contains(*k)) {
            let (key, value) = $lend;
            $table.insert(key, value)?;
        }
    }};
}

const DROPPED: &str = "the row is dropped";

impl Model {
    /// Reads every table. Rows that do not decode are findings.
    pub fn load(txn: &ReadTransaction, findings: &mut Findings) -> Model {
        let mut m = Model::default();
        let mut load = Loader { txn, findings, incomplete: false };
        load.table(INODES, |ino, row, f| match InodeRow::decode(row) {
            Some(attr) if (1..=INODE_MAX).contains(&ino) => drop(m.inodes.insert(ino, attr)),
            _ => f.error(format!("inode {ino}"), "its row is malformed", DROPPED),
        });
        load.table(NAMES, |key, value, f| match (value.len(), tables::split_name_value(value)) {
            (9, Some(value)) if key.len() >= 16 => drop(m.names.insert(key.to_vec(), value)),
            _ => f.error("names", format!("row {} is malformed", hex(key)), DROPPED),
        });
        load.table(EXTENTS, |key, value, _| {
            m.extents.insert(key, Extent::unpack(value));
        });
        load.table(TARGETS, |ino, target, _| {
            m.targets.insert(ino, target.to_vec());
        });
        load.table(XATTRS, |(ino, name), value, _| {
            m.xattrs.insert((ino, name.to_vec()), value.to_vec());
        });
        load.table(ORPHANS, |ino, (), _| {
            m.orphans.insert(ino);
        });
        load.table(GROUPS, |group, row, _| {
            m.bitmaps.groups.insert(group, row.to_vec());
        });
        load.table(FREE, |index, row, _| {
            m.bitmaps.free.insert(index, row.to_vec());
        });
        load.table(COUNTERS, |name, n, _| {
            m.counters.insert(name.to_owned(), n);
        });
        m.incomplete = load.incomplete;
        m
    }

    /// Makes the tables say what the model says, touching only rows that differ.
    pub fn store(&self, tables: &mut Tables<'_>) -> Result<()> {
        let row = |attr: &Attr| InodeRow::new(attr).as_bytes().to_vec();
        let inodes: BTreeMap<u64, Vec<u8>> =
            self.inodes.iter().map(|(ino, attr)| (*ino, row(attr))).collect();
        sync!(tables.inodes, inodes, |k, v| (k, v.to_vec()), |k, v| (*k, v.as_slice()));
        let value = |(ino, kind): &(u64, u8)| tables::name_value(*ino, *kind).to_vec();
        let names: BTreeMap<Vec<u8>, Vec<u8>> =
            self.names.iter().map(|(key, v)| (key.clone(), value(v))).collect();
        sync!(tables.names, names, |k, v| (k.to_vec(), v.to_vec()), |k, v| (
            k.as_slice(),
            v.as_slice()
        ));
        let extents: BTreeMap<(u64, u64), (u64, u64)> =
            self.extents.iter().map(|(k, e)| (*k, e.pack())).collect();
        sync!(tables.extents, extents, |k, v| (k, v), |k, v| (*k, *v));
        sync!(tables.targets, self.targets, |k, v| (k, v.to_vec()), |k, v| (*k, v.as_slice()));
        sync!(tables.xattrs, self.xattrs, |k, v| ((k.0, k.1.to_vec()), v.to_vec()), |k, v| (
            (k.0, k.1.as_slice()),
            v.as_slice()
        ));
        let orphans: BTreeMap<u64, ()> = self.orphans.iter().map(|ino| (*ino, ())).collect();
        sync!(tables.orphans, orphans, |k, v| (k, v), |k, v| (*k, *v));
        let Bitmaps { groups, free } = &self.bitmaps;
        sync!(tables.groups, groups, |k, v| (k, v.to_vec()), |k, v| (*k, v.as_slice()));
        sync!(tables.free, free, |k, v| (k, v.to_vec()), |k, v| (*k, v.as_slice()));
        sync!(tables.counters, self.counters, |k, v| (k.to_owned(), v), |k, v| (k.as_str(), *v));
        Ok(())
    }
}

struct Loader<'a> {
    txn: &'a ReadTransaction,
    findings: &'a mut Findings,
    incomplete: bool,
}

impl Loader<'_> {
    /// Reads a table from the front; when it breaks off, from the back too.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
        mut take: impl for<'v> FnMut(K::SelfType<'v>, V::SelfType<'v>, &mut Findings),
    ) {
        let object = format!("table {}", definition.name());
        let table = match guard(&object, || Ok(self.txn.open_table(definition)?)) {
            Ok(table) => table,
            Err(e) => {
                self.incomplete = true;
                return self.findings.error(object, e.to_string(), "it is made anew");
            }
        };
        for backwards in [false, true] {
            let read = guard(&object, || walk(&table, backwards, self.findings, &mut take));
            match read {
                Ok(()) => return,
                Err(e) if backwards => tracing::debug!("{object}, from the back: {e}"),
                Err(e) => {
                    self.incomplete = true;
                    let remedy = "the rows that can be read are kept";
                    self.findings.error(object.clone(), e.to_string(), remedy);
                }
            }
        }
    }
}

fn walk<K: Key + 'static, V: Value + 'static>(
    table: &ReadOnlyTable<K, V>,
    backwards: bool,
    findings: &mut Findings,
    take: &mut impl for<'v> FnMut(K::SelfType<'v>, V::SelfType<'v>, &mut Findings),
) -> Result<()> {
    let mut rows = table.iter()?;
    let mut last: Option<Vec<u8>> = None;
    while let Some(row) = if backwards { rows.next_back() } else { rows.next() } {
        let (key, value) = row?;
        let bytes = K::as_bytes(&key.value()).as_ref().to_vec();
        // Pages that point at each other can make a table look endless, but not in order.
        let forward = if backwards { Ordering::Less } else { Ordering::Greater };
        if last.is_some_and(|last| K::compare(&bytes, &last) != forward) {
            return Err(Error::Corrupt("rows are out of order".into()));
        }
        take(key.value(), value.value(), findings);
        last = Some(bytes);
    }
    Ok(())
}

/// The first bytes of a key, for a message.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(24).map(|b| format!("{b:02x}")).collect()
}
