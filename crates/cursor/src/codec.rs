//! The text form of a cursor. Its bytewise order is the order of age.
//!
//! ```text
//! cursor    = "1a1" coverage reader spaces purges ( "-" | walk ) checksum
//! coverage  = order xmax *delta "~" *( xact seq ) "-" [ lsn fingerprint [ timeline history ] ]
//! walk      = "." target epoch xact seq joined left table flags ( "-" | "." timestamp )
//! target    = *digit coverage
//! spaces, joined, left = count *hash
//! ```
//!
//! `flags` is a digit: 1 for a walk of records, 2 for a reader that may have held records when the walk began, 4 for a
//! coverage that was cut.
//!
//! A number is one digit that says how many digits follow, and then those digits. A hash, a fingerprint
//! and the checksum have eight digits each. The digits are the 64 characters that a URL need not escape,
//! in the order of their bytes, so that a greater number is a greater text.
//!
//! `order` is [`Coverage::order`]. Each `delta` is the distance of an open transaction from the one before it. If two coverages have an
//! equal `xmax`, some transaction is open in the earlier coverage and has ended in the later one. The text of the later coverage does not
//! name this transaction. So at the first difference, the text of the later coverage has a greater `delta`, or the end mark `~`, which
//! sorts after every digit.
//!
//! Most transactions that are open in the target of a walk were open in its start too. So the target
//! begins with digits that have a bit for each open transaction of `coverage`, in order. The bit is set if
//! that transaction is open in the target. The deltas of the target name only the others.
//!
//! If the open transactions of a coverage take more than their share of [`MAX_LENGTH`], the coverage is cut ([`Snapshot::cut`]) before the
//! first open transaction that has no room. If an open transaction of an earlier coverage has ended in a later one, the later text has one
//! `delta` in the place of two, which takes no more room than the two. So the later coverage is not cut at a smaller id, and its text is
//! not smaller.
//!
//! A cursor sorts after the timestamps of the last century and before the timestamps of this one: `1a` sorts after `19`, and timestamps of
//! the years 2000 to 2999 begin with `2`. The order matters, because some devices keep a cursor and timestamps, and send the smallest of
//! their cursors and the current time: if the device has a cursor, it must send the cursor. A device that has never synced sends
//! `1970-01-01T00:00:00.000Z`. The text of a walk begins like the text of its start, and sorts with it.

use crate::Position;
use crate::cursor::{Cursor, Walk};
use crate::epoch::{Coverage, Epoch, NewHistory};
use crate::hash;
use crate::id::{EpochNumber, Fingerprint, HistoryId, KeyedHash, Lsn, PurgeMark, Timeline, TransactionId};
use crate::snapshot::Snapshot;

/// The beginning of every cursor of this version. The last digit is the version.
const PREFIX: &str = "1a1";
/// The beginning of a cursor of any version, before the digit of the version.
const FAMILY: &str = "1a";
const DIGITS: &[u8; 64] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
/// The value of each byte as a digit, or [`NO_DIGIT`].
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

/// The length in bytes above which a cursor leaves out open transactions, so that its reader gets some rows again.
pub const MAX_LENGTH: usize = 6000;
/// The number of bytes kept for everything in a cursor that is neither a space nor an open transaction.
const ROOM_FOR_REST: usize = 300;
/// The number of bytes that open transactions always have, however many spaces there are. About 1,000 open transactions fit.
const LEAST_FOR_OPEN: usize = 2000;
/// The number of bytes kept for transactions that are open in the target of a walk but not in its start.
const LEAST_FOR_TARGET: usize = 500;
/// The greatest number of open transactions in a text. No server has more. A text that names more was made to cost the
/// server time and memory.
const MOST_OPEN: usize = 50_000;
/// The number of bits in a digit.
const DIGIT_BITS: usize = 6;

/// The greatest number of partial transactions in a text. A reader is in one transaction at a time; the other partial
/// transactions are prepared. If there are more, the text leaves out the oldest.
pub(crate) const MOST_PARTIAL: usize = 16;

/// The reason why a text is not a cursor of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text was cut, extended or changed.
    #[error("its checksum does not match: it was cut or changed")]
    Checksum,
    /// The text is intact, but of a version that this server does not know.
    #[error("it is of a version that this server does not know")]
    Version,
}

/// Whether a text was meant to be a cursor: it begins like a cursor of some version.
pub fn looks_like_cursor(text: &[u8]) -> bool {
    text.strip_prefix(FAMILY.as_bytes()).and_then(|rest| rest.first()).is_some_and(u8::is_ascii_digit)
}

impl Cursor {
    /// Encodes the cursor as text.
    pub fn to_text(&self) -> String {
        let mut out = Writer(PREFIX.as_bytes().to_vec());
        out.coverage(self.coverage.as_ref(), &[]);
        out.hash(self.reader.0);
        out.hashes(&self.spaces);
        out.number(self.purges.0);
        match &self.walk {
            None => out.0.push(END),
            Some(walk) => {
                out.0.push(MORE);
                out.target(&walk.target, open_of(self.coverage.as_ref()));
                out.number(walk.last.epoch.0.into());
                out.number(walk.last.xact.0);
                out.number(walk.last.seq.max(0) as u64);
                out.hashes(&walk.joined);
                out.hashes(&walk.left);
                out.hash(walk.table.0);
                let flags = [walk.as_records, walk.may_hold_records, walk.base_is_cut];
                out.digits(flags.iter().rev().fold(0, |digit, &flag| digit << 1 | u64::from(flag)), 1);
                match walk.created_after {
                    None => out.0.push(END),
                    Some(micros) => {
                        out.0.push(MORE);
                        out.number(zigzag(micros));
                    }
                }
            }
        }
        let checksum = hash::checksum(&out.0);
        out.hash(checksum.0);
        out.into_text()
    }

    /// Decodes a cursor from its text.
    pub fn from_text(text: &[u8]) -> Result<Cursor, DecodeError> {
        let body = text.len().checked_sub(HASH_DIGITS).ok_or(DecodeError::Checksum)?;
        let (body, checksum) = text.split_at(body);
        if Reader(checksum).hash() != Ok(hash::checksum(body).0) {
            return Err(match text.starts_with(PREFIX.as_bytes()) {
                true => DecodeError::Checksum,
                false => DecodeError::Version,
            });
        }
        let mut input = Reader(body.strip_prefix(PREFIX.as_bytes()).ok_or(DecodeError::Version)?);
        // A text that is intact and does not parse was written by something else.
        match input.cursor() {
            Ok(cursor) if input.0.is_empty() => Ok(cursor),
            _ => Err(DecodeError::Version),
        }
    }
}

impl Position {
    /// Encodes the position as text. The bytewise order of such texts is the order of the log.
    pub fn to_text(self) -> String {
        let mut out = Writer(Vec::with_capacity(24));
        out.number(self.epoch.0.into());
        out.number(self.xact.0);
        out.number(self.seq.max(0) as u64);
        out.into_text()
    }
}

/// The number of bytes that a cursor with this number of spaces has for open transactions.
pub fn room_for_open(spaces: usize) -> usize {
    MAX_LENGTH.saturating_sub(ROOM_FOR_REST + HASH_DIGITS * spaces).max(LEAST_FOR_OPEN)
}

/// The number of open transactions that fit into `room` bytes, counted from the first. `beside_target` says whether the
/// target of a walk shares the room.
pub fn fitting(open: &[TransactionId], room: usize, beside_target: bool) -> usize {
    match beside_target {
        false => fit(open, &[], room),
        // An open transaction takes at least two bytes here, and one bit in the target.
        true => fit(open, &[], room.saturating_sub(LEAST_FOR_TARGET + room / (2 * DIGIT_BITS))),
    }
}

/// The number of open transactions of a walk's target that fit into `room` bytes, counted from the first. The open
/// transactions of the walk's start, `known`, share the room.
pub fn fitting_target(target: &[TransactionId], known: &[TransactionId], room: usize) -> usize {
    let mut last = 0;
    let used = |xact: &TransactionId| length_of_number(xact.0 - std::mem::replace(&mut last, xact.0));
    let used: usize = known.iter().map(used).sum();
    let left = room.saturating_sub(used + known.len().div_ceil(DIGIT_BITS));
    fit(target, known, left.max(LEAST_FOR_TARGET.min(room)))
}

/// The number of ids in `open` that fit into `room` bytes, counted from the first. Ids that are also in `known` take no
/// room.
fn fit(open: &[TransactionId], known: &[TransactionId], room: usize) -> usize {
    let (mut used, mut last) = (0, 0);
    let fits = |xact: &&TransactionId| {
        if known.binary_search(xact).is_err() {
            used += length_of_number(xact.0 - last);
            last = xact.0;
        }
        used <= room
    };
    open.iter().take_while(fits).count()
}

fn open_of(coverage: Option<&Coverage>) -> &[TransactionId] {
    coverage.map_or(&[], |coverage| coverage.snapshot.open())
}

/// The length of a number as text.
fn length_of_number(value: u64) -> usize {
    1 + digits_of(value)
}

fn digits_of(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(6) as usize
}

/// Maps a signed number to an unsigned one, so that numbers near 0 stay short.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

struct Writer(Vec<u8>);

impl Writer {
    /// The text, which is ASCII.
    fn into_text(self) -> String {
        self.0.iter().map(|&byte| char::from(byte)).collect()
    }

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

    fn hashes(&mut self, values: &[KeyedHash]) {
        self.number(values.len() as u64);
        for &value in values {
            self.hash(value.0);
        }
    }

    fn target(&mut self, target: &Coverage, known: &[TransactionId]) {
        let open = target.snapshot.open();
        for chunk in known.chunks(DIGIT_BITS) {
            let bit = |(place, xact)| u64::from(open.binary_search(xact).is_ok()) << place;
            self.digits(chunk.iter().enumerate().map(bit).sum(), 1);
        }
        self.coverage(Some(target), known);
    }

    /// Writes a coverage without those open transactions that are in `known`.
    fn coverage(&mut self, coverage: Option<&Coverage>, known: &[TransactionId]) {
        let nothing = Snapshot::default();
        let snapshot = coverage.map_or(&nothing, |coverage| &coverage.snapshot);
        self.number(coverage.map_or(0, Coverage::order));
        self.number(snapshot.xmax().0);
        let mut last = 0;
        for &xact in snapshot.open().iter().filter(|xact| known.binary_search(xact).is_err()) {
            self.number(xact.0 - last);
            last = xact.0;
        }
        self.0.push(END_OF_OPEN);
        let partial = snapshot.partial();
        for &(xact, seq) in &partial[partial.len().saturating_sub(MOST_PARTIAL)..] {
            self.number(xact.0);
            self.number(seq.max(0) as u64);
        }
        self.0.push(END);
        if let Some(coverage) = coverage {
            self.number(coverage.lsn.0);
            self.hash(coverage.epoch.fingerprint.0);
            if let Some(new) = coverage.new_history {
                self.number(new.timeline.0.into());
                self.hash(new.history.0);
            }
        }
    }
}

/// The text does not parse as a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    /// Consumes `mark` if it is the next byte.
    fn take(&mut self, mark: u8) -> bool {
        let found = self.0.first() == Some(&mark);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn digit(&mut self) -> Result<u64, Malformed> {
        match VALUES[usize::from(self.byte()?)] {
            NO_DIGIT => Err(Malformed),
            value => Ok(value.into()),
        }
    }

    fn digits(&mut self, count: usize) -> Result<u64, Malformed> {
        (0..count).try_fold(0u64, |value, _| Ok(value.checked_mul(64).ok_or(Malformed)? | self.digit()?))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let count = self.digit()? as usize;
        self.digits(count)
    }

    fn number_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    fn seq(&mut self) -> Result<i64, Malformed> {
        i64::try_from(self.number()?).map_err(|_| Malformed)
    }

    fn hash(&mut self) -> Result<u64, Malformed> {
        let (digits, rest) = self.0.split_first_chunk::<HASH_DIGITS>().ok_or(Malformed)?;
        self.0 = rest;
        // One check for all digits, because a cursor has a hash for each space.
        let (mut value, mut all) = (0, 0);
        for &digit in digits {
            let digit = VALUES[usize::from(digit)];
            value = value << DIGIT_BITS | u64::from(digit);
            all |= digit;
        }
        if all == NO_DIGIT { Err(Malformed) } else { Ok(value) }
    }

    fn hashes(&mut self) -> Result<Vec<KeyedHash>, Malformed> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        // The text has to be long enough before anything is allocated for it.
        if count > self.0.len() / HASH_DIGITS {
            return Err(Malformed);
        }
        (0..count).map(|_| self.hash().map(KeyedHash)).collect()
    }

    fn target(&mut self, known: &[TransactionId]) -> Result<Coverage, Malformed> {
        let mut open = Vec::new();
        for chunk in known.chunks(DIGIT_BITS) {
            let bits = self.digit()?;
            open.extend(chunk.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, &xact)| xact));
        }
        self.coverage(open)?.ok_or(Malformed)
    }

    /// Reads a coverage. Its open transactions are those in `open` and those that the text names.
    fn coverage(&mut self, mut open: Vec<TransactionId>) -> Result<Option<Coverage>, Malformed> {
        let order = self.number()?;
        let xmax = TransactionId(self.number()?);
        let mut last = 0u64;
        while !self.take(END_OF_OPEN) {
            if open.len() == MOST_OPEN {
                return Err(Malformed);
            }
            last = last.checked_add(self.number()?).ok_or(Malformed)?;
            open.push(TransactionId(last));
        }
        let mut partial = Vec::new();
        while !self.take(END) {
            if partial.len() == MOST_PARTIAL {
                return Err(Malformed);
            }
            partial.push((TransactionId(self.number()?), self.seq()?));
        }
        if order == 0 {
            return Ok(None);
        }
        let lsn = Lsn(self.number()?);
        let number = EpochNumber(u32::try_from(order / 2).map_err(|_| Malformed)?);
        let epoch = Epoch { number, fingerprint: Fingerprint(self.hash()?) };
        let new_history = match order % 2 {
            0 => None,
            _ => Some(NewHistory { timeline: Timeline(self.number_u32()?), history: HistoryId(self.hash()?) }),
        };
        let snapshot = Snapshot::new(xmax, open, partial);
        Ok(Some(Coverage { epoch, new_history, snapshot, lsn }))
    }

    fn cursor(&mut self) -> Result<Cursor, Malformed> {
        let coverage = self.coverage(Vec::new())?;
        let (reader, spaces, purges) = (KeyedHash(self.hash()?), self.hashes()?, PurgeMark(self.number()?));
        let mut cursor = Cursor { coverage, reader, spaces, purges, walk: None };
        if !self.take(END) {
            if !self.take(MORE) {
                return Err(Malformed);
            }
            let target = self.target(open_of(cursor.coverage.as_ref()))?;
            let last = Position::new(self.number_u32()?, self.number()?, self.seq()?);
            let (joined, left, table) = (self.hashes()?, self.hashes()?, KeyedHash(self.hash()?));
            let flags = self.digit()?;
            let created_after = match self.take(END) {
                true => None,
                false if self.take(MORE) => Some(unzigzag(self.number()?)),
                false => return Err(Malformed),
            };
            cursor.walk = Some(Walk {
                target,
                last,
                joined,
                left,
                table,
                created_after,
                as_records: flags & 1 != 0,
                may_hold_records: flags & 2 != 0,
                base_is_cut: flags & 4 != 0,
            });
        }
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot_of(xmax: u64, open: Vec<u64>, partial: Vec<(u64, i64)>) -> Snapshot {
        let open = open.into_iter().map(TransactionId).collect();
        Snapshot::new(TransactionId(xmax), open, partial.into_iter().map(|(xact, seq)| (xact.into(), seq)).collect())
    }

    fn epoch(number: u32, fingerprint: u64) -> Epoch {
        Epoch { number: EpochNumber(number), fingerprint: Fingerprint(fingerprint) }
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        (
            0u64..u64::MAX / 2,
            prop::collection::btree_set(0u64..1 << 40, 0..20),
            prop::option::of((3u64..1 << 40, 1i64..1 << 40)),
        )
            .prop_map(|(xmax, open, own)| snapshot_of(xmax, open.into_iter().collect(), own.into_iter().collect()))
    }

    fn coverage() -> impl Strategy<Value = Coverage> {
        let new_history = (1u32..9, 0..=hash::MAX)
            .prop_map(|(timeline, history)| NewHistory { timeline: Timeline(timeline), history: HistoryId(history) });
        (1u32..99, 0..=hash::MAX, prop::option::of(new_history), snapshot(), any::<u64>()).prop_map(
            |(number, fingerprint, new_history, snapshot, lsn)| Coverage {
                epoch: epoch(number, fingerprint),
                new_history,
                snapshot,
                lsn: Lsn(lsn),
            },
        )
    }

    /// Generates a position. Each part of it is as often small as large.
    fn position() -> impl Strategy<Value = Position> {
        (any::<(u32, u64)>(), 0..i64::MAX, 0u32..32, 0u32..64, 0u32..63)
            .prop_map(|((epoch, xact), seq, a, b, c)| Position::new(epoch >> a, xact >> b, seq >> c))
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let hash = || (0..=hash::MAX).prop_map(KeyedHash);
        let hashes = move || prop::collection::vec(hash(), 0..5);
        let walk = (coverage(), position(), hashes(), hashes(), hash(), any::<Option<i64>>(), any::<[bool; 3]>())
            .prop_map(|(target, last, joined, left, table, created_after, flags)| Walk {
                target,
                last,
                joined,
                left,
                table,
                created_after,
                as_records: flags[0],
                may_hold_records: flags[1],
                base_is_cut: flags[2],
            });
        (hash(), prop::option::of(coverage()), hashes(), any::<u64>().prop_map(PurgeMark), prop::option::of(walk))
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
            writer.hash(hash::checksum(&text).0);
            text.extend(writer.0);
            let _ = Cursor::from_text(&text);
        }

        #[test]
        fn text_order_of_positions_is_log_order(a in position(), b in position()) {
            let beside_a = [
                Position::new(a.epoch.0, a.xact.0, b.seq),
                Position::new(a.epoch.0, b.xact.0, b.seq),
                b,
            ];
            for other in beside_a {
                prop_assert_eq!(a.to_text().cmp(&other.to_text()), a.cmp(&other), "{:?} {:?}", a, other);
            }
        }

        #[test]
        fn text_order_is_age_order(a in coverage(), grow in snapshot(), later in 0u64..1000) {
            let bigger = Snapshot::new(TransactionId(grow.xmax().max(a.snapshot.xmax()).0 + later), grow.open().to_vec(), vec![]);
            let b = Coverage { snapshot: a.snapshot.union(&bigger), ..a.clone() };
            let text = |coverage: &Coverage| Cursor { coverage: Some(coverage.clone()), reader: KeyedHash(5), spaces: vec![], purges: PurgeMark(0), walk: None }.to_text();
            prop_assert!(text(&a) <= text(&b), "{:?} {:?}", a, b);
            let next = Coverage { epoch: epoch(a.epoch.number.0 + 1, 0), ..a.clone() };
            prop_assert!(text(&b) < text(&next));
        }
    }

    /// The text form must not change, because devices hold cursors that earlier builds issued.
    #[test]
    fn the_text_stays_what_it_is() {
        let coverage = |number, xmax, partial| Coverage {
            epoch: epoch(number, 0x1234_5678_9abc),
            new_history: Some(NewHistory { timeline: Timeline(4), history: HistoryId(77) }),
            snapshot: snapshot_of(xmax, vec![xmax - 900, xmax - 3], partial),
            lsn: Lsn(0x16_b374_d848),
        };
        let walk = Walk {
            target: coverage(3, 6000, vec![(5998, 12)]),
            last: Position::new(2, 4711, 42),
            joined: vec![KeyedHash(5), KeyedHash(hash::MAX)],
            left: vec![KeyedHash(7)],
            table: KeyedHash(99),
            created_after: Some(-1_000_000),
            as_records: false,
            may_hold_records: true,
            base_is_cut: false,
        };
        let cursor = Cursor {
            reader: KeyedHash(0xa9ef_1c2a_fd7f),
            coverage: Some(coverage(2, 5000, vec![])),
            spaces: vec![KeyedHash(1), KeyedHash(0x4c8f_395a_b90f)],
            purges: PurgeMark(9),
            walk: Some(walk),
        };
        assert_eq!(
            cursor.to_text(),
            "1a10420D720-31D0~-60PnSCW73YGLT8ew03------0CeTwR9jpz01-------0I7wtLfZE08.-0620Sk20Eg1D000~20Si0B-60PnSCW73YGLT8ew03------0C01208b0e01-------4zzzzzzzz00-------6------0Y1.36cGzmIc538bX"
        );
    }

    /// Two coverages may have the same `xmax`. Then the one with fewer open transactions is the later one. The test
    /// compares every subset of a few ids.
    #[test]
    fn text_order_is_age_order_while_transactions_finish() {
        let text = |open: Vec<u64>| {
            let coverage = Coverage {
                epoch: epoch(1, 9),
                new_history: None,
                snapshot: snapshot_of(5000, open, vec![]),
                lsn: Lsn(0),
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
        /// The snapshots are those of a server whose transactions begin and end. A text has no room for all open transactions.
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
                let snapshot = snapshot_of(xmax, open.clone(), vec![]);
                let snapshot = snapshot.cut(fitting(snapshot.open(), room, false));
                let coverage = Coverage { epoch: epoch(1, 9), new_history: None, snapshot, lsn: Lsn(0) };
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
            let snapshot = snapshot_of(500, vec![], vec![(480, seq)]);
            let coverage = Coverage { epoch: epoch(1, 9), new_history: None, snapshot, lsn: Lsn(0) };
            Cursor { coverage: Some(coverage), ..Cursor::default() }.to_text()
        };
        assert!(text(0) < text(1) && text(1) < text(2) && text(2) < text(700));
    }

    #[test]
    fn sizes() {
        let coverage = |open: Vec<u64>| Coverage {
            epoch: epoch(3, 77),
            new_history: None,
            snapshot: snapshot_of(5_000_000_000, open, vec![]),
            lsn: Lsn(0x12_3456_7890),
        };
        let cursor = |spaces: u64, open: Vec<u64>| Cursor {
            reader: KeyedHash(1),
            coverage: Some(coverage(open)),
            spaces: (0..spaces).map(KeyedHash).collect(),
            purges: PurgeMark(0),
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

    /// A cursor that has too little room leaves out open transactions, but never spaces.
    #[test]
    fn two_states_that_fill_their_room_fit() {
        let open: Vec<u64> = (0..20_000).map(|i| 3_000_000_000 + 7 * i).collect();
        let all = snapshot_of(5_000_000_000, open, vec![]);
        let later = snapshot_of(6_000_000_000, (0..9000).map(|i| 3_000_000_004 + 14 * i).collect(), vec![]);
        for spaces in [0, 3, 300, 1000] {
            let room = room_for_open(spaces);
            let rest = all.cut(fitting(all.open(), room, false));
            let cut = all.cut(fitting(all.open(), room, true));
            assert!(all.contains(&rest) && rest.contains(&cut) && cut.open().len() > 600, "{}", cut.open().len());
            let state = |snapshot| Coverage { epoch: epoch(3, 77), new_history: None, snapshot, lsn: Lsn(u64::MAX) };
            let names: Vec<KeyedHash> = (0..spaces as u64).map(KeyedHash).collect();
            let rest = Cursor {
                coverage: Some(state(rest)),
                spaces: names,
                purges: PurgeMark(u64::MAX),
                walk: None,
                reader: KeyedHash(0),
            }
            .to_text();
            assert!(rest.len() <= MAX_LENGTH.max(8 * spaces + LEAST_FOR_OPEN + ROOM_FOR_REST), "{}", rest.len());
            let target = later.cut(fitting_target(later.open(), cut.open(), room));
            let coverage = state(cut);
            let last = Position::new(3, u64::MAX, i64::MAX);
            let walk = Walk {
                target: state(target),
                last,
                joined: vec![],
                left: vec![],
                table: KeyedHash(0),
                created_after: Some(1 << 60),
                as_records: true,
                may_hold_records: true,
                base_is_cut: true,
            };
            let spaces: Vec<KeyedHash> = (0..spaces as u64).map(KeyedHash).collect();
            let cursor = Cursor {
                coverage: Some(coverage),
                spaces: spaces.clone(),
                purges: PurgeMark(u64::MAX),
                walk: Some(walk),
                reader: KeyedHash(0),
            };
            let text = cursor.to_text();
            assert!(text.len() <= MAX_LENGTH.max(8 * spaces.len() + LEAST_FOR_OPEN + ROOM_FOR_REST), "{}", text.len());
            assert_eq!(Cursor::from_text(text.as_bytes()), Ok(cursor));
        }
    }

    /// Some devices send the smallest of their cursors and the current time. If a cursor were greater than the current time, they would
    /// always send the time, and skip what they had not pulled.
    #[test]
    fn a_cursor_sorts_between_the_beginning_of_time_and_this_century() {
        let cursor = Cursor::default().to_text();
        assert!(cursor.as_str() > "1970-01-01T00:00:00.000Z" && cursor.as_str() > "1999-12-31T23:59:59.999Z");
        assert!(cursor.as_str() < "2000-01-01T00:00:00.000Z" && cursor.as_str() < "2099-12-31T23:59:59.999Z");
        assert!(!looks_like_cursor(b"2026-01-01T00:00:00Z") && !looks_like_cursor(b"1970-01-01T00:00:00Z"));
        assert!(!looks_like_cursor(b"1a") && !looks_like_cursor(b"1abc") && looks_like_cursor(b"1a2x"));
    }

    /// A server can read every cursor that it issued, however many spaces the scope has.
    #[test]
    fn a_cursor_of_many_spaces_can_be_read() {
        let cursor = Cursor { spaces: (0..200_000).map(KeyedHash).collect(), ..Cursor::default() };
        assert_eq!(Cursor::from_text(cursor.to_text().as_bytes()), Ok(cursor));
    }
}
