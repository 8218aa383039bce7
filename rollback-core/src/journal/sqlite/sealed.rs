//! Checksums of rows: a row that is torn, edited or moved is found when it is read.

use sha2::{Digest as _, Sha256};

/// Half a SHA-256 is plenty against accidents, and against accidents only.
pub(super) type Sum = [u8; 16];

/// A number or a text of a row.
pub(super) enum Field<'a> {
    Int(i64),
    Text(&'a str),
}

/// The checksum of a row of a table.
pub(super) fn sum(table: &str, fields: &[Field<'_>]) -> Sum {
    let mut hash = Sha256::new();
    for field in [Field::Text(table)].iter().chain(fields) {
        match field {
            Field::Int(n) => hash.update(n.to_le_bytes()),
            Field::Text(t) => {
                hash.update((t.len() as u64).to_le_bytes());
                hash.update(t);
            }
        }
    }
    let mut sum = Sum::default();
    sum.copy_from_slice(&hash.finalize()[..16]);
    sum
}
