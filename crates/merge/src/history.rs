//! The history of a record: which change wrote which field, when, and the values before and after it.

use crate::change::Stamp;

/// An entry in the history of a record. `V` is the type of a value, and `C` is what the caller keeps of the change.
#[derive(Clone, Debug)]
pub struct Event<'a, V, C> {
    /// The time and the position of the event.
    pub stamp: Stamp,
    /// What the event did to the record.
    pub effect: Effect<'a, V>,
    /// The value of the field before the event; `None` if the field had no value. Set by [`sort_with_old_values`].
    pub old_value: Option<V>,
    /// The change of which the event is a part.
    pub change: C,
}

/// What an event did to the record.
#[derive(Clone, Debug)]
pub enum Effect<'a, V> {
    /// Deleted the record.
    Delete,
    /// Inserted the record without any field.
    Insert,
    /// Wrote a field, by an insert or an update.
    Write {
        /// The name of the field.
        field: &'a [u8],
        /// The value that was written.
        value: V,
    },
}

impl<'a, V, C> Event<'a, V, C> {
    fn is_delete(&self) -> bool {
        matches!(self.effect, Effect::Delete)
    }

    /// The field and the value that the event wrote; `None` if it is not a write of a field.
    fn write(&self) -> Option<(&'a [u8], &V)> {
        match &self.effect {
            Effect::Write { field, value } => Some((field, value)),
            Effect::Delete | Effect::Insert => None,
        }
    }

    fn field(&self) -> Option<&'a [u8]> {
        self.write().map(|(field, _)| field)
    }
}

/// Sorts events by their stamps, and sets the old value of each write: the value of the latest earlier write of the field, unless
/// the record was deleted in between.
///
/// The events are sorted in place, because a history may be long.
pub fn sort_with_old_values<V: Clone, C>(events: &mut [Event<'_, V, C>]) {
    // Deletes first, then inserts, then the writes of one field after the other.
    events.sort_unstable_by(|a, b| (!a.is_delete(), a.field(), a.stamp).cmp(&(!b.is_delete(), b.field(), b.stamp)));
    let (deletes, others) = events.split_at_mut(events.partition_point(Event::is_delete));
    for i in 1..others.len() {
        let (earlier, later) = others.split_at_mut(i);
        let (earlier, later) = (&earlier[i - 1], &mut later[0]);
        let Some((field, value)) = earlier.write() else { continue };
        let last_delete = deletes[..deletes.partition_point(|delete| delete.stamp < later.stamp)].last();
        if later.field() == Some(field) && last_delete.is_none_or(|delete| delete.stamp < earlier.stamp) {
            later.old_value = Some(value.clone());
        }
    }
    events.sort_unstable_by(|a, b| (a.stamp, a.field()).cmp(&(b.stamp, b.field())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;
    use mana_sync_cursor::Position;

    fn event(minute: i64, effect: Effect<'static, i32>) -> Event<'static, i32, ()> {
        let stamp = Stamp { time: Time::from_micros(minute), position: Position::new(1, 1, minute) };
        Event { stamp, effect, old_value: None, change: () }
    }

    fn write(minute: i64, field: &'static str, value: i32) -> Event<'static, i32, ()> {
        event(minute, Effect::Write { field: field.as_bytes(), value })
    }

    #[test]
    fn the_old_value_is_that_of_the_latest_write_unless_the_record_was_deleted() {
        let mut events = vec![
            write(5, "a", 5),
            event(4, Effect::Delete),
            write(2, "a", 2),
            write(3, "b", 3),
            write(1, "a", 1),
            event(0, Effect::Insert),
            write(6, "b", 6),
            write(7, "a", 7),
        ];
        sort_with_old_values(&mut events);
        let old_values: Vec<_> = events.iter().map(|event| (event.stamp.time.micros(), event.old_value)).collect();
        let none = [(0, None), (1, None)];
        let some = [(2, Some(1)), (3, None), (4, None), (5, None), (6, None), (7, Some(5))];
        assert_eq!(old_values, [none.as_slice(), &some].concat());
    }
}
