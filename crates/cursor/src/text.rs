//! The text form of a cursor. Its bytewise order is the order of age.
//!
//! ```text
//! cursor    = "ms1" seen reader spaces ( "-" | walk ) checksum
//! seen      = order xmax *delta "~" *( xact seq ) "-" [ fingerprint [ timeline history ] ]
//! walk      = "." seen epoch xact seq joined left table ( "-" | "." timestamp )
//! spaces, joined, left = count *hash
//! ```
//!
//! A number is a digit that says how many digits follow, and those digits; hashes, fingerprints and
//! the checksum have eight digits. The digits are the 64 characters that a URL need not escape, in
//! the order of their bytes, so that a greater number is a greater text. `order` is
//! [`Seen::order`]; each `delta` is an open transaction's distance from the one before it. Of two
//! states with equal `xmax` the later one lacks a transaction that the earlier one has open: at the
//! first difference it has a greater id, or the end mark `~`, which sorts after every digit.
//!
//! Timestamps begin with a digit, and the text with a letter: it sorts after each of them. A walk's
//! text begins like the one that it started from, and sorts with it.

use crate::cursor::{Cursor, Walk};
use crate::history::{Epoch, Seen, Unwritten};
use crate::snapshot::Snapshot;
use crate::{Position, keyed};

/// What every cursor begins with; the digit is the version of the form.
const PREFIX: &str = "ms1";
/// What a cursor of any version begins with, before the version's digit.
const FAMILY: &str = "ms";
const DIGITS: &[u8; 64] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
const END_OF_OPEN: u8 = b'~';
const END: u8 = b'-';
const MORE: u8 = b'.';
const HASH_DIGITS: usize = 8;

/// A cursor longer than this gives up precision about open transactions.
pub const MAX_LENGTH: usize = 6000;

/// A longer text is no cursor: this is room for more than a hundred thousand spaces.
const LONGEST: usize = 1 << 20;

/// The text is no cursor that this version issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Cut, extended or changed.
    #[error("its checksum does not match: it was cut or changed")]
    Checksum,
    /// Intact, but of another version.
    #[error("it is of a version that this server does not know")]
    Version,
}

/// Whether a text was meant to be a cursor: it begins like one.
pub fn looks_like_cursor(text: &[u8]) -> bool {
    text.strip_prefix(FAMILY.as_bytes()).and_then(|rest| rest.first()).is_some_and(u8::is_ascii_digit)
}

impl Cursor {
    /// The text form, of at most [`MAX_LENGTH`] bytes unless the spaces alone take more.
    pub fn to_text(&self) -> String {
        let text = self.to_text_in_full();
        if text.len() <= MAX_LENGTH {
            return text;
        }
        // Halve how many open transactions are named until it fits; a smaller set of seen rows
        // brings repeats and no loss, for a walk's target too.
        let mut coarse = self.clone();
        let mut keep = [coarse.seen.as_ref(), coarse.walk.as_ref().map(|walk| &walk.target)]
            .into_iter()
            .flatten()
            .map(|seen| seen.snapshot.open().len())
            .max()
            .unwrap_or(0);
        loop {
            keep /= 2;
            for seen in [coarse.seen.as_mut(), coarse.walk.as_mut().map(|walk| &mut walk.target)].into_iter().flatten()
            {
                seen.snapshot = seen.snapshot.coarsen(keep);
            }
            let text = coarse.to_text_in_full();
            if text.len() <= MAX_LENGTH || keep == 0 {
                return text;
            }
        }
    }

    fn to_text_in_full(&self) -> String {
        let mut out = Writer(PREFIX.as_bytes().to_vec());
        out.seen(self.seen.as_ref());
        out.hash(self.reader);
        out.hashes(&self.spaces);
        match &self.walk {
            None => out.0.push(END),
            Some(walk) => {
                out.0.push(MORE);
                out.seen(Some(&walk.target));
                out.number(walk.last.epoch.into());
                out.number(walk.last.xact);
                out.number(walk.last.seq.max(0) as u64);
                out.hashes(&walk.joined);
                out.hashes(&walk.left);
                out.hash(walk.table);
                match walk.after {
                    None => out.0.push(END),
                    Some(micros) => {
                        out.0.push(MORE);
                        out.number(zigzag(micros));
                    }
                }
            }
        }
        let checksum = keyed::checksum(&out.0);
        out.hash(checksum);
        out.0.iter().map(|&byte| char::from(byte)).collect()
    }

    /// Reads the text form.
    pub fn from_text(text: &[u8]) -> Result<Cursor, Damaged> {
        let body = text.len().checked_sub(HASH_DIGITS).filter(|_| text.len() <= LONGEST).ok_or(Damaged::Checksum)?;
        let (body, checksum) = text.split_at(body);
        if Reader(checksum).hash() != Some(keyed::checksum(body)) {
            return Err(match text.starts_with(PREFIX.as_bytes()) {
                true => Damaged::Checksum,
                false => Damaged::Version,
            });
        }
        let mut input = Reader(body.strip_prefix(PREFIX.as_bytes()).ok_or(Damaged::Version)?);
        // An intact text that does not parse was written by something else.
        input.cursor().filter(|_| input.0.is_empty()).ok_or(Damaged::Version)
    }
}

/// Signed to unsigned, small to small.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

struct Writer(Vec<u8>);

impl Writer {
    fn digits(&mut self, value: u64, count: usize) {
        self.0.extend((0..count).rev().map(|place| DIGITS[(value >> (6 * place) & 63) as usize]));
    }

    fn number(&mut self, value: u64) {
        let count = (u64::BITS - value.leading_zeros()).div_ceil(6) as usize;
        self.0.push(DIGITS[count]);
        self.digits(value, count);
    }

    fn hash(&mut self, value: u64) {
        self.digits(value & keyed::MAX, HASH_DIGITS);
    }

    fn hashes(&mut self, values: &[u64]) {
        self.number(values.len() as u64);
        for &value in values {
            self.hash(value);
        }
    }

    fn seen(&mut self, seen: Option<&Seen>) {
        let nothing = Snapshot::default();
        let snapshot = seen.map_or(&nothing, |seen| &seen.snapshot);
        self.number(seen.map_or(0, Seen::order));
        self.number(snapshot.xmax());
        let mut last = 0;
        for &xact in snapshot.open() {
            self.number(xact - last);
            last = xact;
        }
        self.0.push(END_OF_OPEN);
        for &(xact, seq) in snapshot.partial() {
            self.number(xact);
            self.number(seq.max(0) as u64);
        }
        self.0.push(END);
        if let Some(seen) = seen {
            self.hash(seen.epoch.fingerprint);
            if let Some(unwritten) = seen.unwritten {
                self.number(unwritten.timeline.into());
                self.hash(unwritten.history);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Takes `mark` if it is next.
    fn take(&mut self, mark: u8) -> bool {
        let found = self.0.first() == Some(&mark);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn digit(&mut self) -> Option<u64> {
        DIGITS.binary_search(&self.byte()?).ok().map(|digit| digit as u64)
    }

    fn digits(&mut self, count: usize) -> Option<u64> {
        (0..count).try_fold(0u64, |value, _| Some(value.checked_mul(64)? | self.digit()?))
    }

    fn number(&mut self) -> Option<u64> {
        let count = self.digit()? as usize;
        self.digits(count)
    }

    fn hash(&mut self) -> Option<u64> {
        self.digits(HASH_DIGITS)
    }

    fn hashes(&mut self) -> Option<Vec<u64>> {
        let count = usize::try_from(self.number()?).ok()?;
        // No allocation that the text is too short for.
        if count > self.0.len() / HASH_DIGITS {
            return None;
        }
        (0..count).map(|_| self.hash()).collect()
    }

    fn seen(&mut self) -> Option<Option<Seen>> {
        let order = self.number()?;
        let xmax = self.number()?;
        let mut open = Vec::new();
        let mut last = 0u64;
        while !self.take(END_OF_OPEN) {
            last = last.checked_add(self.number()?)?;
            open.push(last);
        }
        let mut partial = Vec::new();
        while !self.take(END) {
            partial.push((self.number()?, i64::try_from(self.number()?).ok()?));
        }
        if order == 0 {
            return Some(None);
        }
        let epoch = Epoch { number: u32::try_from(order / 2).ok()?, fingerprint: self.hash()? };
        let unwritten = match order % 2 {
            0 => None,
            _ => Some(Unwritten { timeline: u32::try_from(self.number()?).ok()?, history: self.hash()? }),
        };
        Some(Some(Seen { epoch, unwritten, snapshot: Snapshot::new(xmax, open, partial) }))
    }

    fn cursor(&mut self) -> Option<Cursor> {
        let mut cursor = Cursor { seen: self.seen()?, reader: self.hash()?, spaces: self.hashes()?, walk: None };
        if !self.take(END) {
            if !self.take(MORE) {
                return None;
            }
            let target = self.seen()??;
            let last =
                Position::new(u32::try_from(self.number()?).ok()?, self.number()?, i64::try_from(self.number()?).ok()?);
            let (joined, left, table) = (self.hashes()?, self.hashes()?, self.hash()?);
            let after = match self.take(END) {
                true => None,
                false if self.take(MORE) => Some(unzigzag(self.number()?)),
                false => return None,
            };
            cursor.walk = Some(Walk { target, last, joined, left, table, after });
        }
        Some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        (
            0u64..u64::MAX / 2,
            prop::collection::btree_set(0u64..1 << 40, 0..20),
            prop::option::of((3u64..1 << 40, 1i64..1 << 40)),
        )
            .prop_map(|(xmax, open, own)| Snapshot::new(xmax, open.into_iter().collect(), own.into_iter().collect()))
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let unwritten = (1u32..9, 0..=keyed::MAX).prop_map(|(timeline, history)| Unwritten { timeline, history });
        (1u32..99, 0..=keyed::MAX, prop::option::of(unwritten), snapshot()).prop_map(
            |(number, fingerprint, unwritten, snapshot)| Seen {
                epoch: Epoch { number, fingerprint },
                unwritten,
                snapshot,
            },
        )
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let hashes = || prop::collection::vec(0..=keyed::MAX, 0..5);
        let walk = (seen(), any::<(u32, u64)>(), 0..i64::MAX, hashes(), hashes(), 0..=keyed::MAX, any::<Option<i64>>())
            .prop_map(|(target, (epoch, xact), seq, joined, left, table, after)| Walk {
                target,
                last: Position::new(epoch, xact, seq),
                joined,
                left,
                table,
                after,
            });
        (0..=keyed::MAX, prop::option::of(seen()), hashes(), prop::option::of(walk))
            .prop_map(|(reader, seen, spaces, walk)| Cursor { reader, seen, spaces, walk })
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(cursor in cursor()) {
            let text = cursor.to_text();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
            prop_assert!(looks_like_cursor(text.as_bytes()));
            prop_assert_eq!(Cursor::from_text(text.as_bytes()), Ok(cursor));
        }

        #[test]
        fn any_damage_is_noticed(cursor in cursor(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = cursor.to_text().into_bytes();
            let at = at.index(text.len());
            prop_assert!(Cursor::from_text(&text[..at]).is_err());
            if text[at] != byte {
                text[at] = byte;
                prop_assert!(Cursor::from_text(&text).is_err());
            }
        }

        #[test]
        fn text_of_any_bytes_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // A text with a right checksum reaches the parser, which must not panic on it.
            let mut text = [PREFIX.as_bytes(), &bytes].concat();
            let mut writer = Writer(Vec::new());
            writer.hash(keyed::checksum(&text));
            text.extend(writer.0);
            let _ = Cursor::from_text(&text);
        }

        #[test]
        fn text_order_is_age_order(a in seen(), grow in snapshot(), later in 0u64..1000) {
            let bigger = Snapshot::new(grow.xmax().max(a.snapshot.xmax()) + later, grow.open().to_vec(), vec![]);
            let b = Seen { snapshot: a.snapshot.union(&bigger), ..a.clone() };
            let text = |seen: &Seen| Cursor { seen: Some(seen.clone()), reader: 5, spaces: vec![], walk: None }.to_text();
            prop_assert!(text(&a) <= text(&b), "{:?} {:?}", a, b);
            let next = Seen { epoch: Epoch { number: a.epoch.number + 1, fingerprint: 0 }, ..a.clone() };
            prop_assert!(text(&b) < text(&next));
        }
    }

    /// Fewer open transactions at the same xmax is the later state; every subset of a few ids is compared.
    #[test]
    fn text_order_is_age_order_while_transactions_finish() {
        let text = |open: Vec<u64>| {
            let seen = Seen {
                epoch: Epoch { number: 1, fingerprint: 9 },
                unwritten: None,
                snapshot: Snapshot::new(5000, open, vec![]),
            };
            Cursor { seen: Some(seen), ..Cursor::default() }.to_text()
        };
        let ids = [3, 4, 67, 68, 4099, 4100];
        let subset = |mask: u32| {
            ids.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, &x)| x).collect::<Vec<u64>>()
        };
        for earlier in 0u32..64 {
            for later in (0..64).filter(|later| later & earlier == *later && *later != earlier) {
                assert!(text(subset(earlier)) < text(subset(later)), "{earlier:b} {later:b}");
            }
        }
    }

    #[test]
    fn the_reader_that_writes_gets_later_texts() {
        let text = |seq| {
            let snapshot = Snapshot::new(500, vec![], vec![(480, seq)]);
            let seen = Seen { epoch: Epoch { number: 1, fingerprint: 9 }, unwritten: None, snapshot };
            Cursor { seen: Some(seen), ..Cursor::default() }.to_text()
        };
        assert!(text(0) < text(1) && text(1) < text(2) && text(2) < text(700));
    }

    #[test]
    fn sizes() {
        let seen = |open: Vec<u64>| Seen {
            epoch: Epoch { number: 3, fingerprint: 77 },
            unwritten: None,
            snapshot: Snapshot::new(5_000_000_000, open, vec![]),
        };
        let cursor = |spaces: u64, open: Vec<u64>| Cursor {
            reader: 1,
            seen: Some(seen(open)),
            spaces: (0..spaces).collect(),
            walk: None,
        };
        let few = cursor(3, vec![4_999_999_000, 4_999_999_100]).to_text();
        assert!(few.len() < 200, "{}", few.len());
        assert_eq!(
            cursor(103, vec![4_999_999_000, 4_999_999_100]).to_text().len() - few.len(),
            801,
            "eight each, and one for the longer count"
        );
        // Many open writers: precision about them goes first, and about spaces never.
        let many = cursor(100, (0..20_000).map(|i| 3_000_000_000 + 7 * i).collect());
        let text = many.to_text();
        assert!(text.len() <= MAX_LENGTH);
        let read = Cursor::from_text(text.as_bytes()).unwrap();
        assert_eq!(read.spaces, many.spaces);
        assert!(
            seen((0..20_000).map(|i| 3_000_000_000 + 7 * i).collect()).snapshot.contains(&read.seen.unwrap().snapshot)
        );
        assert!(cursor(1000, vec![]).to_text().len() < 8200);
    }

    #[test]
    fn every_cursor_sorts_after_every_timestamp() {
        assert!(Cursor::default().to_text().as_str() > "9999-12-31T23:59:59.999999999Z");
        assert!(
            !looks_like_cursor(b"2026-01-01T00:00:00Z") && !looks_like_cursor(b"msg") && looks_like_cursor(b"ms2x")
        );
    }
}
