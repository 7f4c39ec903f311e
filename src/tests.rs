//! Tests that need the inside of a backend.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn ids_are_widened_across_the_32_bit_boundary() {
        crate::snapshot::pure_tests::ids_are_widened_across_the_32_bit_boundary();
    }

    #[pg_test]
    fn the_flush_stops_before_a_page_header() {
        crate::snapshot::pure_tests::the_flush_stops_before_a_page_header();
    }
}
