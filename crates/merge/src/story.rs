//! Who changed which field, when, from what to what.

use crate::change::Stamp;

/// Something that happened to a record. `T` is what the caller wants to tell of the change; `V` a value.
#[derive(Clone, Debug)]
pub struct Event<'a, T, V> {
    /// When.
    pub stamp: Stamp,
    /// Whether it is a delete.
    pub deletes: bool,
    /// The field and what was written to it; none for a delete, or an insert without fields.
    pub field: Option<(&'a [u8], V)>,
    /// What the field was before: the latest earlier write of it, if the record has not been deleted since.
    pub before: Option<V>,
    /// Of the change.
    pub of: T,
}

impl<T, V> Event<'_, T, V> {
    fn name(&self) -> Option<&[u8]> {
        self.field.as_ref().map(|(name, _)| *name)
    }
}

/// Puts events in the order of their times, and finds out for each what there was before. In place: a history may be long.
pub fn tell<T, V: Clone>(events: &mut [Event<'_, T, V>]) {
    // Deletes, then what has no field, then each field's writes.
    events.sort_unstable_by(|a, b| (!a.deletes, a.name(), a.stamp).cmp(&(!b.deletes, b.name(), b.stamp)));
    let (deletes, others) = events.split_at_mut(events.partition_point(|event| event.deletes));
    for i in 1..others.len() {
        let (earlier, later) = others.split_at_mut(i);
        let (earlier, later) = (&earlier[i - 1], &mut later[0]);
        let last_delete = deletes[..deletes.partition_point(|delete| delete.stamp < later.stamp)].last();
        let is_alive = last_delete.is_none_or(|delete| delete.stamp < earlier.stamp);
        if later.field.is_some() && later.name() == earlier.name() && is_alive {
            later.before = earlier.field.as_ref().map(|(_, value)| value.clone());
        }
    }
    events.sort_unstable_by(|a, b| (a.stamp, a.name()).cmp(&(b.stamp, b.name())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;
    use mana_sync_cursor::Position;

    fn event(minute: i64, field: Option<(&'static str, i32)>, deletes: bool) -> Event<'static, (), i32> {
        let stamp = Stamp { time: Time::from_micros(minute), position: Position::new(1, 1, minute) };
        Event { stamp, deletes, field: field.map(|(name, value)| (name.as_bytes(), value)), before: None, of: () }
    }

    #[test]
    fn a_field_was_what_it_was_last_unless_the_record_was_deleted() {
        let mut events = vec![
            event(5, Some(("a", 5)), false),
            event(4, None, true),
            event(2, Some(("a", 2)), false),
            event(3, Some(("b", 3)), false),
            event(1, Some(("a", 1)), false),
            event(0, None, false),
            event(6, Some(("b", 6)), false),
            event(7, Some(("a", 7)), false),
        ];
        tell(&mut events);
        let told: Vec<_> = events.iter().map(|event| (event.stamp.time.micros(), event.before)).collect();
        let none = [(0, None), (1, None)];
        let some = [(2, Some(1)), (3, None), (4, None), (5, None), (6, None), (7, Some(5))];
        assert_eq!(told, [none.as_slice(), &some].concat());
    }
}
