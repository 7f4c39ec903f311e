//! A row of the log: its columns, and what is read from them.
//!
//! The columns are declared here and in `sql/tables.sql`. Queries that return rows of the log select `c.*`, and the accessors find a column
//! by its place in the table. To add a column, add it to the table and to [`Column`]. If readers get it, add it also to [`CHANGE`] or
//! [`RESULT_COLUMNS`], and to the declarations in `sql/functions.sql`. Debug builds compare the names of the columns with every row. A
//! column must never be dropped: the row of a trigger still has the place of a dropped column, but `c.*` does not.

use crate::error::Error;
use crate::pg::datum::Datum;
use crate::pg::heap::{Descriptor, Row};
use crate::pg::jsonb::{Jsonb, Node, Object};
use mana_sync_cursor::Position;
use mana_sync_merge::change::{Change, JsonObject, Op};
use mana_sync_merge::time::Time;

/// Declares [`Column`] with the names of the columns, in the order of the table.
macro_rules! columns {
    ($($column:ident $name:literal),* $(,)?) => {
        /// A column of `mana_sync.sync_changes`. Its number is its place in the table, from 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Column { $($column),* }

        /// The names of the columns, in the order of the table.
        const NAMES: &[&str] = &[$($name),*];
    };
}

columns! {
    Id "id",
    CreatedAt "created_at",
    Xact "xact",
    Epoch "epoch",
    SchemaVersion "schema_version",
    UserId "user_id",
    AppId "app_id",
    TableName "table_name",
    RecordId "record_id",
    Op "op",
    ClientId "client_id",
    SpaceId "space_id",
    Data "data",
    FieldTimestamps "field_timestamps",
    Actor "actor",
    Origin "origin",
    Seq "seq",
}

/// How many columns the log has.
pub const COLUMN_COUNT: usize = NAMES.len();

/// The columns that readers get, in the order in which `export_changes` declares them.
pub const CHANGE: [Column; 14] = [
    Column::Id,
    Column::AppId,
    Column::TableName,
    Column::RecordId,
    Column::UserId,
    Column::Op,
    Column::Data,
    Column::FieldTimestamps,
    Column::ClientId,
    Column::CreatedAt,
    Column::SchemaVersion,
    Column::SpaceId,
    Column::Actor,
    Column::Origin,
];

/// The columns that `changes_since` returns, without `cursor`: the first columns of [`CHANGE`].
pub const RESULT_COLUMNS: [Column; 13] = match CHANGE.first_chunk() {
    Some(columns) => *columns,
    None => panic!("a change has more columns"),
};

/// The columns that are jsonb.
pub const JSON: [Column; 3] = [Column::Data, Column::FieldTimestamps, Column::Actor];

/// The columns of the key of a group. All changes of a group agree in these columns. Their order is that of `sync_changes_record_idx`.
pub const GROUP: [Column; 5] = [Column::AppId, Column::RecordId, Column::SpaceId, Column::UserId, Column::TableName];

/// The places of the log's columns in a row, from 1; 0 for a column that the row does not have.
pub struct Layout([usize; COLUMN_COUNT]);

/// The layout of a row that is `c.*`.
pub static TABLE: Layout = Layout::after(0);
/// The layout of a row in which one other column precedes `c.*`.
pub static AFTER_ONE: Layout = Layout::after(1);
/// The layout of a row that has the columns of [`RESULT_COLUMNS`].
pub static RESULT: Layout = Layout::of(&RESULT_COLUMNS);
/// The layout of a row that has the columns of [`CHANGE`].
pub static WHOLE_CHANGE: Layout = Layout::of(&CHANGE);

impl Layout {
    const fn after(count: usize) -> Layout {
        let mut places = [0; COLUMN_COUNT];
        let mut place = 0;
        while place < NAMES.len() {
            places[place] = count + place + 1;
            place += 1;
        }
        Layout(places)
    }

    const fn of(columns: &[Column]) -> Layout {
        let mut places = [0; COLUMN_COUNT];
        let mut place = 0;
        while place < columns.len() {
            places[columns[place] as usize] = place + 1;
            place += 1;
        }
        Layout(places)
    }

    /// Returns the place of a column in a row, from 1; 0 if the row does not have the column.
    pub const fn place(&self, column: Column) -> usize {
        self.0[column as usize]
    }

    /// Returns the places of `columns` in a row.
    pub const fn places<const N: usize>(&self, columns: &[Column; N]) -> [usize; N] {
        let mut places = [0; N];
        let mut place = 0;
        while place < N {
            places[place] = self.place(columns[place]);
            place += 1;
        }
        places
    }

    /// Whether the columns of a row have the names that this layout expects.
    pub fn fits(&self, descriptor: Descriptor<'_>) -> bool {
        NAMES.iter().zip(&self.0).all(|(name, &place)| place == 0 || descriptor.name(place) == *name)
    }
}

/// A row of the log.
#[derive(Clone, Copy)]
pub struct LogRow<'r> {
    row: Row<'r>,
    layout: &'static Layout,
}

impl<'r> LogRow<'r> {
    /// Makes a `LogRow` of a row whose columns are at the places of `layout`.
    pub fn new(row: Row<'r>, layout: &'static Layout) -> LogRow<'r> {
        debug_assert!(layout.fits(row.descriptor()), "the columns of src/row.rs are not those of sql/tables.sql");
        LogRow { row, layout }
    }

    /// Makes a `LogRow` of a row that is `c.*`.
    pub fn of_table(row: Row<'r>) -> LogRow<'r> {
        LogRow::new(row, &TABLE)
    }

    /// Returns the row with all columns deformed at once, which is faster for a caller that reads most of them.
    pub fn deform(&self) -> LogRow<'r> {
        LogRow { row: self.row.deform(), ..*self }
    }

    /// The row without its layout.
    pub fn row(&self) -> &Row<'r> {
        &self.row
    }

    /// Returns a column as a datum; `None` for NULL.
    pub fn datum(&self, column: Column) -> Option<Datum<'r>> {
        self.row.datum(self.layout.place(column))
    }

    /// Returns a column of type `text`; `None` for NULL.
    pub fn text(&self, column: Column) -> Option<&'r [u8]> {
        self.row.text(self.layout.place(column))
    }

    /// Returns a column of type `jsonb`; `None` for NULL.
    pub fn jsonb(&self, column: Column) -> Option<Jsonb<'r>> {
        self.row.jsonb(self.layout.place(column))
    }

    /// The id of the change.
    pub fn id(&self) -> Result<uuid::Uuid, Error> {
        self.row.uuid(self.layout.place(Column::Id)).ok_or(NULL)
    }

    /// The version of the schema that the change was written under.
    pub fn schema_version(&self) -> i32 {
        self.datum(Column::SchemaVersion).map_or(1, Datum::int4)
    }

    /// The position of the change.
    pub fn position(&self) -> Result<Position, Error> {
        let part = |column| self.datum(column).ok_or(NULL);
        let (epoch, xact, seq) = (part(Column::Epoch)?, part(Column::Xact)?, part(Column::Seq)?);
        Ok(Position::new(epoch.int4() as u32, xact.uint8(), seq.int8()))
    }

    /// Returns the parts of the change that merging needs.
    pub fn change(&self) -> Result<Change<Object<'r>>, Error> {
        self.change_at(self.position()?)
    }

    /// Returns the parts of the change that merging needs. The row may lack the columns of its position, which is given.
    pub fn change_at(&self, position: Position) -> Result<Change<Object<'r>>, Error> {
        Ok(Change {
            op: Op::parse(self.text(Column::Op).ok_or(NULL)?)
                .ok_or(Error::Installation("mana_sync.sync_changes has another op"))?,
            data: self.jsonb(Column::Data).and_then(Jsonb::object),
            field_timestamps: self.jsonb(Column::FieldTimestamps).and_then(Jsonb::object),
            created_at: self.created_at()?,
            position,
        })
    }

    /// Returns the time at which the server recorded the change.
    pub fn created_at(&self) -> Result<Time, Error> {
        Ok(Time::from_micros(self.datum(Column::CreatedAt).ok_or(NULL)?.int8()))
    }

    /// Returns a column of the key of the row's group. NULL becomes the empty string: the space of a private change is `''`.
    pub fn group_key(&self, column: Column) -> &'r [u8] {
        self.text(column).unwrap_or_default()
    }
}

/// The error for a NOT NULL column of the log that is NULL.
pub const NULL: Error = Error::Installation("a column of mana_sync.sync_changes is NULL");

impl<'a> JsonObject<'a> for Object<'a> {
    type Value = Node<'a>;

    fn string(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.text()
    }

    fn fields(self) -> impl Iterator<Item = (&'a [u8], Node<'a>)> {
        self.pairs().filter_map(|(key, value)| Some((key.text()?, value)))
    }
}
