//! `mana_sync.forget_user`: erases a user.

use super::{Edits, lock};
use crate::bounds::key;
use crate::call::Call;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{Statement, statement};
use crate::row::LogRow;

sql_functions!(forget_user);

static ANONYMISE_DELETES: Statement = statement!("queries/anonymise_deletes.sql", [TEXT, TEXT]);
static DELETE_USER: Statement = statement!("queries/delete_user.sql", [TEXT]);
static DELETES_OF_USER: Statement = statement!("queries/deletes_of_user.sql", [TEXT]);
static FORGET_COMPACTIONS: Statement = statement!(
    sql "DELETE FROM mana_sync.compactions AS c WHERE c.user_id OPERATOR(pg_catalog.=) $1",
    [TEXT]
);
static FORGET_PLACE: Statement = statement!("queries/forget_place.sql", [TEXT]);

/// `mana_sync.forget_user(user_id text) RETURNS bigint`
///
/// Removes the changes of a user, and anonymises the user's deletes in shared spaces. Returns the number of these
/// changes. Errors: 22023 for an empty user; 42501 if row security would hide rows from the owner.
fn forget_user<'a>(args: &Args<'a>) -> Answer<'a> {
    let user = Some(args.memory().text(key(args.text(0), "user_id")?));
    let nobody = Some(args.memory().text(format!("forgotten:{}", uuid::Uuid::new_v4()).as_bytes()));
    Call::INDEX_SCANS.run(|spi| {
        lock(spi)?;
        let mut count = 0;
        // Each statement sees what was committed before it began. The loop ends when no delete of the user was
        // committed since the last round.
        loop {
            let anonymised = spi.update(&ANONYMISE_DELETES, &[user, nobody]);
            count += anonymised + spi.delete(&DELETE_USER, &[user]);
            if anonymised == 0 {
                break;
            }
        }
        // A string under `deletedAt` that is not a time may say anything, also about the user.
        snapshot::with(Kind::Latest, || {
            let mut edits = Edits::new(spi);
            spi.for_each(&DELETES_OF_USER, &[nobody], |row| {
                let row = LogRow::of_table(row);
                let change = row.change()?;
                if change.time_key().is_none() && change.data.is_some() {
                    edits.trim(&row, &[b"deletedAt"])?;
                }
                Ok(true)
            })?;
            edits.flush()
        })?;
        spi.delete(&FORGET_COMPACTIONS, &[user]);
        spi.update(&FORGET_PLACE, &[user]);
        Ok::<_, Error>(Some(Datum::from(count as i64)))
    })
}
