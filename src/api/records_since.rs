//! `mana_sync.records_since`: the records of a page, and the cursor.

use super::changes_since::PageArgs;
use crate::call::Call;
use crate::error::Error;
use crate::page::records::{PageRecord, RecordRows, ShowRecords};
use crate::page::{self, ClientFilter};
use crate::pg::datum::Datum;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::memory::Memory;
use crate::pg::tuplestore::ResultSet;
use crate::settings;
use mana_sync_cursor::page::Request;

sql_functions!(records_since);

/// The number of columns that `records_since` returns: those of `records`, and the cursor.
const RESULT_COLUMNS: usize = 8;

/// `mana_sync.records_since(user_id, app_id, table_name, since, exclude_client_id, page_size, space_ids)`
///
/// Returns a page of records. Errors: those of `changes_since`.
fn records_since<'a>(args: &Args<'a>) -> Answer<'a> {
    let result = ResultSet::new(args, RESULT_COLUMNS)?;
    let page_args = PageArgs::new(args, 1000)?;
    Call::PLAIN.in_scope(args.memory(), args.text(0), args.texts(6), |spi, scope| {
        let request = Request { as_records: true, excluded_client: page_args.client, ..page_args.request(scope) };
        let PageArgs { client, start, .. } = page_args;
        let most = settings::max_page_bytes();
        let mut shown = ResultRecords { result: &result, memory: spi.memory(), most, bytes: 0, last: None };
        let mut rows = RecordRows::new(spi, &request, client, most, &mut shown);
        page::read(spi, &request, (ClientFilter::Everywhere, client), start, &mut rows, |rows, page| {
            if let Some(last) = rows.shown.last.take() {
                let cursor = page.next.issued().ok_or(Error::Installation("a page without a cursor"))?;
                let text = args.memory().text(page::issue(cursor).as_bytes());
                result.add_values(&[last.as_slice(), &[Some(text)]].concat());
            }
            Ok(())
        })??;
        Ok(None)
    })
}

/// Adds the records of a page to the result. It keeps back the last record, which gets the cursor of the page.
struct ResultRecords<'a, 's> {
    result: &'a ResultSet,
    memory: Memory<'s>,
    /// The limit of the page, in bytes of text.
    most: usize,
    /// The number of bytes of text that the page has so far.
    bytes: usize,
    /// The columns of the last record, without the column `cursor`.
    last: Option<Vec<Option<Datum<'s>>>>,
}

impl<'s> ShowRecords<'s> for ResultRecords<'_, 's> {
    fn show(&mut self, record: &PageRecord<'s>) -> bool {
        if self.last.is_some() && self.bytes.saturating_add(record.size) > self.most {
            return false;
        }
        self.bytes += record.size;
        let merged = &record.merged;
        let is_live = merged.deleted_at.is_none();
        let columns = vec![
            Some(self.memory.text(record.key.table())),
            Some(self.memory.text(record.key.record())),
            merged.space.map(|space| self.memory.text(space)),
            is_live.then(|| merged.data.datum()),
            is_live.then(|| merged.field_timestamps.datum()),
            merged.deleted_at.map(|time| Datum::from(time.micros())),
            Some(Datum::from(merged.updated_at.micros())),
        ];
        if let Some(last) = self.last.replace(columns) {
            self.result.add_values(&[last.as_slice(), &[None]].concat());
        }
        true
    }
}
