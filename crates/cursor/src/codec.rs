//! The text form of a cursor. Its bytewise order is the order of age.
//!
//! ```text
//! cursor    = "1a1" seen reader spaces purges ( "-" | walk ) checksum
//! seen      = order xmax *delta "~" *( xact seq ) "-" [ lsn fingerprint [ timeline history ] ]
//! walk      = "." target epoch xact seq joined left table ( "-" | "." timestamp )
//! target    = *digit seen
//! spaces, joined, left = count *hash
//! ```
//!
//! A number is a digit that says how many digits follow, and those digits; hashes, fingerprints and
//! the checksum have eight digits. The digits are the 64 characters that a URL need not escape, in
//! the order of their bytes, so that a greater number is a greater text. `order` is
//! [`Coverage::order`]; each `delta` is an open transaction's distance from the one before it. Of two
//! states with equal `xmax` the later one lacks a transaction that the earlier one has open: at the
//! first difference it has a greater id, or the end mark `~`, which sorts after every digit.
//!
//! Most that are open in a walk's target were so where it started from. The digits before it have a bit
//! for each transaction that is open in `seen`, first ones first, set if it is open in the target too;
//! the target's own deltas are those of the others.
//!
//! Where the open transactions of a state take more than their share of [`MAX_LENGTH`], it is cut
//! ([`Snapshot::cut`]) before the first that has no room. A later state leaves some of an earlier one's
//! out, and two distances take no less room than their sum: so it is not cut earlier, and its text is
//! not smaller.
//!
//! Of this millennium's timestamps all but those of before 2000 begin with `2`, and `1a` sorts after `19`: a cursor sorts after
//! `1970-01-01T00:00:00.000Z`, which devices send that have never synced, and before every timestamp of this century. There are
//! devices that send the smallest of their cursors and of the time now: that must be a cursor if they have one. A walk's
//! text begins like the one that it started from, and sorts with it.

use crate::cursor::{Cursor, Walk};
use crate::epoch::{Coverage, Epoch, NewHistory};
use crate::snapshot::Snapshot;
use crate::{Position, hash};

/// What every cursor begins with; the digit is the version of the form.
const PREFIX: &str = "1a1";
/// What a cursor of any version begins with, before the version's digit.
const FAMILY: &str = "1a";
const DIGITS: &[u8; 64] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
/// The value of each digit.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([NO_DIGIT; 256], 0);
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};
const NO_DIGIT: u8 = u8::MAX;
const END_OF_OPEN: u8 = b'~';
const END: u8 = b'-';
const MORE: u8 = b'.';
const HASH_DIGITS: usize = 8;

/// A cursor that would be longer than this gives up precision about open transactions.
pub const MAX_LENGTH: usize = 6000;
/// What a cursor has beside spaces and open transactions is shorter.
const ROOM_FOR_REST: usize = 300;
/// Room that spaces do not take from open transactions: about 1,000 of them.
const LEAST_FOR_OPEN: usize = 2000;
/// Room that is kept for those that are open in a walk's target only.
const LEAST_FOR_TARGET: usize = 500;
/// No server has more transactions open; a text that names more was made to be expensive.
const MOST_OPEN: usize = 50_000;
/// How many bits a digit has.
const DIGIT_BITS: usize = 6;

/// A reader is in one transaction at a time; those in which it pulled before and that are still unfinished
/// are prepared. Of more than these, what has been seen of the oldest is forgotten.
const MOST_PARTIAL: usize = 16;

/// The text is no cursor that this version issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
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
    /// The text form.
    pub fn to_text(&self) -> String {
        let mut out = Writer(PREFIX.as_bytes().to_vec());
        out.coverage(self.coverage.as_ref());
        out.hash(self.reader);
        out.hashes(&self.spaces);
        out.number(self.purges);
        match &self.walk {
            None => out.0.push(END),
            Some(walk) => {
                out.0.push(MORE);
                out.target(&walk.target, open_of(self.coverage.as_ref()));
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
        let checksum = hash::checksum(&out.0);
        out.hash(checksum);
        out.0.iter().map(|&byte| char::from(byte)).collect()
    }

    /// Reads the text form.
    pub fn from_text(text: &[u8]) -> Result<Cursor, DecodeError> {
        let body = text.len().checked_sub(HASH_DIGITS).ok_or(DecodeError::Checksum)?;
        let (body, checksum) = text.split_at(body);
        if Reader(checksum).hash() != Some(hash::checksum(body)) {
            return Err(match text.starts_with(PREFIX.as_bytes()) {
                true => DecodeError::Checksum,
                false => DecodeError::Version,
            });
        }
        let mut input = Reader(body.strip_prefix(PREFIX.as_bytes()).ok_or(DecodeError::Version)?);
        // An intact text that does not parse was written by something else.
        input.cursor().filter(|_| input.0.is_empty()).ok_or(DecodeError::Version)
    }
}

/// How many bytes a cursor that names so many spaces has for open transactions.
pub fn room_for_open(spaces: usize) -> usize {
    MAX_LENGTH.saturating_sub(ROOM_FOR_REST + HASH_DIGITS * spaces).max(LEAST_FOR_OPEN)
}

/// How many of the open transactions of `seen`, from the first on, can be named in `room` bytes; beside the
/// target of a walk or not.
pub fn fitting(coverage: &[u64], room: usize, beside_target: bool) -> usize {
    match beside_target {
        false => fit(coverage, &[], room),
        // Two bytes at least name one.
        true => fit(coverage, &[], room.saturating_sub(LEAST_FOR_TARGET + room / (2 * DIGIT_BITS))),
    }
}

/// How many of the open transactions of a walk's target can be named in `room` bytes beside all those of `seen`.
pub fn fitting_target(target: &[u64], coverage: &[u64], room: usize) -> usize {
    let mut last = 0;
    let used = |xact: &u64| length_of_number(xact - std::mem::replace(&mut last, *xact));
    let used: usize = coverage.iter().map(used).sum();
    let left = room.saturating_sub(used + coverage.len().div_ceil(DIGIT_BITS));
    fit(target, coverage, left.max(LEAST_FOR_TARGET.min(room)))
}

/// How many of `open`, from the first on, can be named in `room` bytes where naming those of `known` takes none.
fn fit(open: &[u64], known: &[u64], room: usize) -> usize {
    let (mut used, mut last) = (0, 0);
    let fits = |xact: &&u64| {
        if known.binary_search(xact).is_err() {
            used += length_of_number(*xact - last);
            last = **xact;
        }
        used <= room
    };
    open.iter().take_while(fits).count()
}

fn open_of(coverage: Option<&Coverage>) -> &[u64] {
    coverage.map_or(&[], |coverage| coverage.snapshot.open())
}

/// How long a number is as text.
fn length_of_number(value: u64) -> usize {
    1 + digits_of(value)
}

fn digits_of(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(6) as usize
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
        let count = digits_of(value);
        self.0.push(DIGITS[count]);
        self.digits(value, count);
    }

    fn hash(&mut self, value: u64) {
        self.digits(value & hash::MAX, HASH_DIGITS);
    }

    fn hashes(&mut self, values: &[u64]) {
        self.number(values.len() as u64);
        for &value in values {
            self.hash(value);
        }
    }

    fn target(&mut self, target: &Coverage, known: &[u64]) {
        let open = target.snapshot.open();
        for chunk in known.chunks(DIGIT_BITS) {
            let bit = |(place, xact)| u64::from(open.binary_search(xact).is_ok()) << place;
            self.digits(chunk.iter().enumerate().map(bit).sum(), 1);
        }
        self.coverage_but(Some(target), known);
    }

    fn coverage(&mut self, coverage: Option<&Coverage>) {
        self.coverage_but(coverage, &[]);
    }

    /// A state, but for the open transactions that are `known`.
    fn coverage_but(&mut self, coverage: Option<&Coverage>, known: &[u64]) {
        let nothing = Snapshot::default();
        let snapshot = coverage.map_or(&nothing, |coverage| &coverage.snapshot);
        self.number(coverage.map_or(0, Coverage::order));
        self.number(snapshot.xmax());
        let mut last = 0;
        for &xact in snapshot.open().iter().filter(|xact| known.binary_search(xact).is_err()) {
            self.number(xact - last);
            last = xact;
        }
        self.0.push(END_OF_OPEN);
        let partial = snapshot.partial();
        for &(xact, seq) in &partial[partial.len().saturating_sub(MOST_PARTIAL)..] {
            self.number(xact);
            self.number(seq.max(0) as u64);
        }
        self.0.push(END);
        if let Some(coverage) = coverage {
            self.number(coverage.lsn);
            self.hash(coverage.epoch.fingerprint);
            if let Some(new_history) = coverage.new_history {
                self.number(new_history.timeline.into());
                self.hash(new_history.history);
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
        let value = VALUES[usize::from(self.byte()?)];
        (value != NO_DIGIT).then_some(value.into())
    }

    fn digits(&mut self, count: usize) -> Option<u64> {
        (0..count).try_fold(0u64, |value, _| Some(value.checked_mul(64)? | self.digit()?))
    }

    fn number(&mut self) -> Option<u64> {
        let count = self.digit()? as usize;
        self.digits(count)
    }

    fn hash(&mut self) -> Option<u64> {
        let (digits, rest) = self.0.split_first_chunk::<HASH_DIGITS>()?;
        self.0 = rest;
        // Looks only once whether all are digits: a cursor has a hash for each space.
        let (mut value, mut seen) = (0, 0);
        for &digit in digits {
            let digit = VALUES[usize::from(digit)];
            value = value << DIGIT_BITS | u64::from(digit);
            seen |= digit;
        }
        (seen != NO_DIGIT).then_some(value)
    }

    fn hashes(&mut self) -> Option<Vec<u64>> {
        let count = usize::try_from(self.number()?).ok()?;
        // No allocation that the text is too short for.
        if count > self.0.len() / HASH_DIGITS {
            return None;
        }
        (0..count).map(|_| self.hash()).collect()
    }

    fn target(&mut self, known: &[u64]) -> Option<Coverage> {
        let mut open = Vec::new();
        for chunk in known.chunks(DIGIT_BITS) {
            let bits = self.digit()?;
            open.extend(chunk.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, &xact)| xact));
        }
        self.coverage_and(open)?
    }

    fn coverage(&mut self) -> Option<Option<Coverage>> {
        self.coverage_and(Vec::new())
    }

    /// A state, with these open transactions and those that it names.
    fn coverage_and(&mut self, mut open: Vec<u64>) -> Option<Option<Coverage>> {
        let order = self.number()?;
        let xmax = self.number()?;
        let mut last = 0u64;
        while !self.take(END_OF_OPEN) {
            if open.len() == MOST_OPEN {
                return None;
            }
            last = last.checked_add(self.number()?)?;
            open.push(last);
        }
        let mut partial = Vec::new();
        while !self.take(END) {
            if partial.len() == MOST_PARTIAL {
                return None;
            }
            partial.push((self.number()?, i64::try_from(self.number()?).ok()?));
        }
        if order == 0 {
            return Some(None);
        }
        let lsn = self.number()?;
        let epoch = Epoch { number: u32::try_from(order / 2).ok()?, fingerprint: self.hash()? };
        let new_history = match order % 2 {
            0 => None,
            _ => Some(NewHistory { timeline: u32::try_from(self.number()?).ok()?, history: self.hash()? }),
        };
        let snapshot = Snapshot::new(xmax, open, partial);
        Some(Some(Coverage { epoch, new_history, snapshot, lsn }))
    }

    fn cursor(&mut self) -> Option<Cursor> {
        let (coverage, reader, spaces, purges) = (self.coverage()?, self.hash()?, self.hashes()?, self.number()?);
        let mut cursor = Cursor { coverage, reader, spaces, purges, walk: None };
        if !self.take(END) {
            if !self.take(MORE) {
                return None;
            }
            let target = self.target(open_of(cursor.coverage.as_ref()))?;
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

    fn coverage() -> impl Strategy<Value = Coverage> {
        let new_history = (1u32..9, 0..=hash::MAX).prop_map(|(timeline, history)| NewHistory { timeline, history });
        (1u32..99, 0..=hash::MAX, prop::option::of(new_history), snapshot(), any::<u64>()).prop_map(
            |(number, fingerprint, new_history, snapshot, lsn)| Coverage {
                epoch: Epoch { number, fingerprint },
                new_history,
                snapshot,
                lsn,
            },
        )
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let hashes = || prop::collection::vec(0..=hash::MAX, 0..5);
        let walk =
            (coverage(), any::<(u32, u64)>(), 0..i64::MAX, hashes(), hashes(), 0..=hash::MAX, any::<Option<i64>>())
                .prop_map(|(target, (epoch, xact), seq, joined, left, table, after)| Walk {
                    target,
                    last: Position::new(epoch, xact, seq),
                    joined,
                    left,
                    table,
                    after,
                });
        (0..=hash::MAX, prop::option::of(coverage()), hashes(), any::<u64>(), prop::option::of(walk))
            .prop_map(|(reader, coverage, spaces, purges, walk)| Cursor { reader, coverage, spaces, purges, walk })
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
            writer.hash(hash::checksum(&text));
            text.extend(writer.0);
            let _ = Cursor::from_text(&text);
        }

        #[test]
        fn text_order_is_age_order(a in coverage(), grow in snapshot(), later in 0u64..1000) {
            let bigger = Snapshot::new(grow.xmax().max(a.snapshot.xmax()) + later, grow.open().to_vec(), vec![]);
            let b = Coverage { snapshot: a.snapshot.union(&bigger), ..a.clone() };
            let text = |coverage: &Coverage| Cursor { coverage: Some(coverage.clone()), reader: 5, spaces: vec![], purges: 0, walk: None }.to_text();
            prop_assert!(text(&a) <= text(&b), "{:?} {:?}", a, b);
            let next = Coverage { epoch: Epoch { number: a.epoch.number + 1, fingerprint: 0 }, ..a.clone() };
            prop_assert!(text(&b) < text(&next));
        }
    }

    /// Devices hold cursors of earlier builds.
    #[test]
    fn the_text_stays_what_it_is() {
        let coverage = |number, xmax, partial| Coverage {
            epoch: Epoch { number, fingerprint: 0x1234_5678_9abc },
            new_history: Some(NewHistory { timeline: 4, history: 77 }),
            snapshot: Snapshot::new(xmax, vec![xmax - 900, xmax - 3], partial),
            lsn: 0x16_b374_d848,
        };
        let walk = Walk {
            target: coverage(3, 6000, vec![(5998, 12)]),
            last: Position::new(2, 4711, 42),
            joined: vec![5, hash::MAX],
            left: vec![7],
            table: 99,
            after: Some(-1_000_000),
        };
        let cursor = Cursor {
            reader: 0xa9ef_1c2a_fd7f,
            coverage: Some(coverage(2, 5000, vec![])),
            spaces: vec![1, 0x4c8f_395a_b90f],
            purges: 9,
            walk: Some(walk),
        };
        assert_eq!(
            cursor.to_text(),
            "1a10420D720-31D0~-60PnSCW73YGLT8ew03------0CeTwR9jpz01-------0I7wtLfZE08.-0620Sk20Eg1D000~20Si0B-60PnSCW73YGLT8ew03------0C01208b0e01-------4zzzzzzzz00-------6------0Y.36cGzM-_Yqr_A"
        );
    }

    /// Fewer open transactions at the same xmax is the later state; every subset of a few ids is compared.
    #[test]
    fn text_order_is_age_order_while_transactions_finish() {
        let text = |open: Vec<u64>| {
            let coverage = Coverage {
                epoch: Epoch { number: 1, fingerprint: 9 },
                new_history: None,
                snapshot: Snapshot::new(5000, open, vec![]),
                lsn: 0,
            };
            Cursor { coverage: Some(coverage), ..Cursor::default() }.to_text()
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

    proptest! {
        /// A server's life: transactions begin and end, more are open than a text has room for.
        #[test]
        fn text_order_is_age_order_where_states_are_cut(
            steps in prop::collection::vec(prop_oneof![(1u64..5000).prop_map(Ok), any::<prop::sample::Index>().prop_map(Err)], 1..80),
            room in 0usize..60,
        ) {
            let (mut next, mut xmax, mut open) = (3, 3, Vec::new());
            let mut before = String::new();
            for step in steps {
                match step {
                    Ok(distance) => {
                        next += distance;
                        open.push(next);
                    }
                    Err(index) if !open.is_empty() => xmax = xmax.max(open.remove(index.index(open.len())) + 1),
                    Err(_) => {}
                }
                let snapshot = Snapshot::new(xmax, open.clone(), vec![]);
                let snapshot = snapshot.cut(fitting(snapshot.open(), room, false));
                let coverage = Coverage { epoch: Epoch { number: 1, fingerprint: 9 }, new_history: None, snapshot, lsn: 0 };
                let text = Cursor { coverage: Some(coverage), ..Cursor::default() }.to_text();
                // The checksum at the end has no order; equal states have equal texts.
                prop_assert!(before <= text, "{} {} {}", before, text, xmax);
                before = text;
            }
        }
    }

    #[test]
    fn the_reader_that_writes_gets_later_texts() {
        let text = |seq| {
            let snapshot = Snapshot::new(500, vec![], vec![(480, seq)]);
            let coverage = Coverage { epoch: Epoch { number: 1, fingerprint: 9 }, new_history: None, snapshot, lsn: 0 };
            Cursor { coverage: Some(coverage), ..Cursor::default() }.to_text()
        };
        assert!(text(0) < text(1) && text(1) < text(2) && text(2) < text(700));
    }

    #[test]
    fn sizes() {
        let coverage = |open: Vec<u64>| Coverage {
            epoch: Epoch { number: 3, fingerprint: 77 },
            new_history: None,
            snapshot: Snapshot::new(5_000_000_000, open, vec![]),
            lsn: 0x12_3456_7890,
        };
        let cursor = |spaces: u64, open: Vec<u64>| Cursor {
            reader: 1,
            coverage: Some(coverage(open)),
            spaces: (0..spaces).collect(),
            purges: 0,
            walk: None,
        };
        let few = cursor(3, vec![4_999_999_000, 4_999_999_100]).to_text();
        assert!(few.len() < 200, "{}", few.len());
        assert_eq!(
            cursor(103, vec![4_999_999_000, 4_999_999_100]).to_text().len() - few.len(),
            801,
            "eight each, and one for the longer count"
        );
        assert!(cursor(1000, vec![]).to_text().len() < 8300);
    }

    /// Precision about open writers goes first, and about spaces never.
    #[test]
    fn two_states_that_fill_their_room_fit() {
        let open: Vec<u64> = (0..20_000).map(|i| 3_000_000_000 + 7 * i).collect();
        let all = Snapshot::new(5_000_000_000, open, vec![]);
        let later = Snapshot::new(6_000_000_000, (0..9000).map(|i| 3_000_000_004 + 14 * i).collect(), vec![]);
        for spaces in [0, 3, 300, 1000] {
            let room = room_for_open(spaces);
            let rest = all.cut(fitting(all.open(), room, false));
            let cut = all.cut(fitting(all.open(), room, true));
            assert!(all.contains(&rest) && rest.contains(&cut) && cut.open().len() > 600, "{}", cut.open().len());
            let state = |snapshot| Coverage {
                epoch: Epoch { number: 3, fingerprint: 77 },
                new_history: None,
                snapshot,
                lsn: u64::MAX,
            };
            let names: Vec<u64> = (0..spaces as u64).collect();
            let rest = Cursor { coverage: Some(state(rest)), spaces: names, purges: u64::MAX, walk: None, reader: 0 }
                .to_text();
            assert!(rest.len() <= MAX_LENGTH.max(8 * spaces + LEAST_FOR_OPEN + ROOM_FOR_REST), "{}", rest.len());
            let target = later.cut(fitting_target(later.open(), cut.open(), room));
            let coverage = state(cut);
            let last = Position::new(3, u64::MAX, i64::MAX);
            let walk =
                Walk { target: state(target), last, joined: vec![], left: vec![], table: 0, after: Some(1 << 60) };
            let spaces: Vec<u64> = (0..spaces as u64).collect();
            let cursor = Cursor {
                coverage: Some(coverage),
                spaces: spaces.clone(),
                purges: u64::MAX,
                walk: Some(walk),
                reader: 0,
            };
            let text = cursor.to_text();
            assert!(text.len() <= MAX_LENGTH.max(8 * spaces.len() + LEAST_FOR_OPEN + ROOM_FOR_REST), "{}", text.len());
            assert_eq!(Cursor::from_text(text.as_bytes()), Ok(cursor));
        }
    }

    /// Devices in the field send the smallest of their cursors and of the time now. Were a cursor greater than the time
    /// now, they would always send that, and skip what they had not pulled.
    #[test]
    fn a_cursor_sorts_between_the_beginning_of_time_and_this_century() {
        let cursor = Cursor::default().to_text();
        assert!(cursor.as_str() > "1970-01-01T00:00:00.000Z" && cursor.as_str() > "1999-12-31T23:59:59.999Z");
        assert!(cursor.as_str() < "2000-01-01T00:00:00.000Z" && cursor.as_str() < "2099-12-31T23:59:59.999Z");
        assert!(!looks_like_cursor(b"2026-01-01T00:00:00Z") && !looks_like_cursor(b"1970-01-01T00:00:00Z"));
        assert!(!looks_like_cursor(b"1a") && !looks_like_cursor(b"1abc") && looks_like_cursor(b"1a2x"));
    }

    /// A server must be able to read what it issued, however many spaces the scope has.
    #[test]
    fn a_cursor_of_many_spaces_can_be_read() {
        let cursor = Cursor { spaces: (0..200_000).collect(), ..Cursor::default() };
        assert_eq!(Cursor::from_text(cursor.to_text().as_bytes()), Ok(cursor));
    }
}
