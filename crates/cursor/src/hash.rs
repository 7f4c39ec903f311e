//! Short keyed hashes, so that a cursor names spaces and its reader in eight characters each and
//! nobody who does not know the log's secret can choose an id that collides with another's.
//!
//! SipHash-2-4 (Aumasson and Bernstein, 2012) is a pseudorandom function for a secret 128-bit key;
//! 48 bits of it are kept.

use siphasher::sip::SipHasher24;
use siphasher::sip128::Hasher128;
use std::hash::Hasher;

/// Length of an epoch's secret in bytes.
pub const SECRET_LENGTH: usize = 16;
/// How many bits a hash has.
pub const BITS: u32 = 48;
/// The greatest hash, and the greatest fingerprint of an epoch.
pub const MAX: u64 = (1 << BITS) - 1;

/// The key of an epoch's hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_LENGTH]);

impl Secret {
    /// Hash of a space's id.
    pub fn space(&self, id: &[u8]) -> u64 {
        self.hash(b's', &[id])
    }

    /// Hash of a reader: a user in an app.
    pub fn reader(&self, user: &[u8], app: &[u8]) -> u64 {
        self.hash(b'r', &[user, app])
    }

    /// Hash of the table that a walk is limited to.
    pub fn table(&self, name: Option<&[u8]>) -> u64 {
        match name {
            Some(name) => self.hash(b't', &[name]),
            None => self.hash(b'a', &[]),
        }
    }

    /// Hash of what a channel is for: all bits of it, for a name that nobody can guess.
    pub fn channel(&self, kind: u8, id: &[u8]) -> u128 {
        let mut hasher = siphasher::sip128::SipHasher24::new_with_key(&self.0);
        hasher.write_u8(kind);
        hasher.write(id);
        hasher.finish128().as_u128()
    }

    fn hash(&self, kind: u8, parts: &[&[u8]]) -> u64 {
        keyed(&self.0, kind, parts)
    }
}

/// Identity of a history of transaction ids: where it began. Not secret, hence the fixed key.
pub fn history(system: u64, database: u32, timeline: u32, switched_at: u64) -> u64 {
    keyed(
        b"mana_sync.histor",
        b'h',
        &[&system.to_be_bytes(), &database.to_be_bytes(), &timeline.to_be_bytes(), &switched_at.to_be_bytes()],
    )
}

/// Fingerprint and secret of an epoch: the same for everybody who knows the same, and nobody's guess
/// without `nonce`, whose first half is the key.
pub fn identity(nonce: &[u8; 32], history: u64, number: u32, run: &[u8]) -> (u64, Secret) {
    let (key, rest) = nonce.split_at(SECRET_LENGTH);
    let mut secret_key = [0; SECRET_LENGTH];
    secret_key.copy_from_slice(key);
    let part = |kind: u8| {
        let mut hasher = siphasher::sip128::SipHasher24::new_with_key(&secret_key);
        for part in [&[kind][..], rest, &history.to_be_bytes(), &number.to_be_bytes(), run] {
            hasher.write(&(part.len() as u64).to_be_bytes());
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    };
    (part(b'f') as u64 & MAX, Secret(part(b'k').to_be_bytes()))
}

/// Checksum of a cursor's text; guards against damage, not against forgery.
pub fn checksum(text: &[u8]) -> u64 {
    keyed(b"mana_sync.cursor", b'c', &[text])
}

fn keyed(key: &[u8; SECRET_LENGTH], kind: u8, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write_u8(kind);
    for part in parts {
        // The length first, in eight bytes from the highest on: ("ab", "c") is not ("a", "bc"). Handed over as a number,
        // which the hasher takes faster than bytes, and from the lowest byte on.
        hasher.write_u64((part.len() as u64).swap_bytes().to_le());
        hasher.write(part);
    }
    hasher.finish() & MAX
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

    /// Cursors that devices hold name spaces and readers by them. (Expected: a SipHash-2-4 in Python that reproduces the
    /// vector of the paper's appendix.)
    #[test]
    fn hashes_stay_what_they_are() {
        let secret = Secret(std::array::from_fn(|i| i as u8));
        assert_eq!(secret.space(b"home"), 0xa9ef_1c2a_fd7f);
        assert_eq!(secret.space(b"0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11"), 0x4c8f_395a_b90f);
        assert_eq!(secret.reader(b"ann", b"notes"), 0x8ea7_caa0_150f);
        assert_eq!(secret.table(Some(b"items")), 0xb740_8ae5_d655);
    }
}
