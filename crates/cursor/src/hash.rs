//! Short keyed hashes. A cursor names each space and its reader by a hash of eight characters.
//!
//! The key is secret, so that nobody can choose an id whose hash collides with that of another id. The function is
//! SipHash-2-4 (Aumasson and Bernstein, 2012), a pseudorandom function with a 128-bit key. A hash keeps 48 bits of the
//! result.

use crate::id::{EpochNumber, Fingerprint, HistoryId, KeyedHash, Lsn, SystemId, Timeline};
use siphasher::sip::SipHasher24;
use siphasher::sip128::Hasher128;
use std::hash::Hasher;

/// The length of an epoch's secret in bytes.
pub const SECRET_LENGTH: usize = 16;
/// The number of bits in a hash.
pub const BITS: u32 = 48;
/// The greatest value of a hash and of an epoch's fingerprint.
pub const MAX: u64 = (1 << BITS) - 1;

/// The secret of an epoch: the key of the hashes in the cursors that name the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_LENGTH]);

impl Secret {
    /// The hash of a space's id.
    pub fn space(&self, id: &[u8]) -> KeyedHash {
        self.hash(b's', &[id])
    }

    /// The hash of a reader, which is a user in an app.
    pub fn reader(&self, user: &[u8], app: &[u8]) -> KeyedHash {
        self.hash(b'r', &[user, app])
    }

    /// The hash of the table to which a walk is limited. `None` stands for all tables, which have a hash too.
    pub fn table(&self, name: Option<&[u8]>) -> KeyedHash {
        match name {
            Some(name) => self.hash(b't', &[name]),
            None => self.hash(b'a', &[]),
        }
    }

    /// The hash of the filter of a walk: the table to which the walk is limited, and the client whose rows do not count.
    pub fn filter(&self, table: Option<&[u8]>, excluded_client: Option<&[u8]>) -> KeyedHash {
        let table = self.table(table);
        match excluded_client {
            Some(client) => self.hash(b'c', &[&table.0.to_be_bytes(), client]),
            None => table,
        }
    }

    /// The hash that names the wake-up channel of a user or space; `kind` tells the kinds of channels apart. The hash has 128 bits, so that
    /// nobody can guess the name of a channel.
    pub fn channel(&self, kind: u8, id: &[u8]) -> u128 {
        let mut hasher = siphasher::sip128::SipHasher24::new_with_key(&self.0);
        hasher.write_u8(kind);
        hasher.write(id);
        hasher.finish128().as_u128()
    }

    fn hash(&self, kind: u8, parts: &[&[u8]]) -> KeyedHash {
        keyed(&self.0, kind, parts)
    }
}

/// The identity of a history of transaction ids: a hash of the place where the history began. The timeline left its parent at
/// `switched_at`. The identity is no secret, so the key of the hash is fixed.
pub fn history_id(system: SystemId, database: u32, timeline: Timeline, switched_at: Lsn) -> HistoryId {
    let parts: [&[u8]; 4] =
        [&system.0.to_be_bytes(), &database.to_be_bytes(), &timeline.0.to_be_bytes(), &switched_at.0.to_be_bytes()];
    HistoryId(keyed(b"mana_sync.histor", b'h', &parts).0)
}

/// Makes the fingerprint and the secret of an epoch.
///
/// Equal arguments give equal results, so that writers which open an epoch at the same time add equal rows. Nobody can guess the results
/// without `nonce`, the first half of which is the key.
pub fn identity(nonce: &[u8; 32], history: HistoryId, number: EpochNumber, run: &[u8]) -> (Fingerprint, Secret) {
    let (key, rest) = nonce.split_at(SECRET_LENGTH);
    let mut secret_key = [0; SECRET_LENGTH];
    secret_key.copy_from_slice(key);
    let part = |kind: u8| {
        let mut hasher = siphasher::sip128::SipHasher24::new_with_key(&secret_key);
        for part in [&[kind][..], rest, &history.0.to_be_bytes(), &number.0.to_be_bytes(), run] {
            hasher.write(&(part.len() as u64).to_be_bytes());
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    };
    (Fingerprint(part(b'f') as u64 & MAX), Secret(part(b'k').to_be_bytes()))
}

/// The checksum of a cursor's text. It guards against damage and not against forgery.
pub fn checksum(text: &[u8]) -> KeyedHash {
    keyed(b"mana_sync.cursor", b'c', &[text])
}

fn keyed(key: &[u8; SECRET_LENGTH], kind: u8, parts: &[&[u8]]) -> KeyedHash {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write_u8(kind);
    for part in parts {
        // The length comes first, as eight big-endian bytes, so that ("ab", "c") differs from ("a", "bc"). The hasher
        // takes a number faster than bytes, and writes it in little-endian order.
        hasher.write_u64((part.len() as u64).swap_bytes().to_le());
        hasher.write(part);
    }
    KeyedHash(hasher.finish() & MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        let secret = Secret([7; SECRET_LENGTH]);
        assert_ne!(secret.reader(b"ab", b"c"), secret.reader(b"a", b"bc"));
        assert_ne!(secret.table(None), secret.table(Some(b"")));
        assert_ne!(secret.space(b"x"), Secret([8; SECRET_LENGTH]).space(b"x"));
    }

    /// Cursors on devices name spaces and readers by these hashes. The expected values come from a SipHash-2-4 in Python
    /// that reproduces the vector of the paper's appendix.
    #[test]
    fn hashes_stay_what_they_are() {
        let secret = Secret(std::array::from_fn(|i| i as u8));
        assert_eq!(secret.space(b"home").0, 0xa9ef_1c2a_fd7f);
        assert_eq!(secret.space(b"0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11").0, 0x4c8f_395a_b90f);
        assert_eq!(secret.reader(b"ann", b"notes").0, 0x8ea7_caa0_150f);
        assert_eq!(secret.table(Some(b"items")).0, 0xb740_8ae5_d655);
    }
}
