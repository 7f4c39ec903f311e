//! Arithmetic with PostgreSQL's transaction ids and positions in the write-ahead log.

use crate::id::{Lsn, TransactionId};

/// Returns the 64-bit id of a transaction from its 32 low bits. `next` is the next id that the server gives out. The
/// transaction's id must not be greater than `next`, and must be within 2^31 of `next`.
pub fn widen(xact: u32, next: TransactionId) -> TransactionId {
    let epoch = next.0 >> 32;
    TransactionId(match xact > next.0 as u32 {
        true => (epoch.saturating_sub(1) << 32) | u64::from(xact),
        false => (epoch << 32) | u64::from(xact),
    })
}

/// Sizes in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct WalGeometry {
    /// Size of a segment, which is a file.
    pub segment: u64,
    /// Size of a page.
    pub page: u64,
    /// Size of the header of the first page of a segment.
    pub long_header: u64,
    /// Size of the header of every other page.
    pub header: u64,
}

impl WalGeometry {
    /// Returns where the last record ends, if the next record will begin at `position`.
    ///
    /// On a new page, the next record begins after the page's header. That position is after everything that was
    /// written, and XLogFlush refuses to flush up to it.
    pub fn end_of_record(&self, position: Lsn) -> Lsn {
        let position = position.0;
        let header = if position % self.segment < self.page { self.long_header } else { self.header };
        Lsn(if position % self.page == header { position - header } else { position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_widened_across_the_32_bit_boundary() {
        let widen = |xact, next| widen(xact, TransactionId(next)).0;
        assert_eq!(widen(7, 8), 7);
        assert_eq!(widen(8, 8), 8);
        assert_eq!(widen(u32::MAX, (1 << 32) + 5), u64::from(u32::MAX));
        assert_eq!(widen(4, (3 << 32) + 5), (3 << 32) + 4);
    }

    #[test]
    fn the_flush_stops_before_a_page_header() {
        let geometry = WalGeometry { segment: 16 << 20, page: 8192, long_header: 40, header: 24 };
        let end_of_record = |position| geometry.end_of_record(Lsn(position)).0;
        assert_eq!(end_of_record(5 * 8192 + 24), 5 * 8192);
        assert_eq!(end_of_record(5 * 8192 + 32), 5 * 8192 + 32);
        assert_eq!(end_of_record((16 << 20) + 40), 16 << 20);
        assert_eq!(end_of_record((16 << 20) + 24), (16 << 20) + 24);
    }
}
