//! Tests that need the inside of a backend.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn a_number_has_the_text_that_the_server_gives_it() {
        crate::json::number::server_tests::a_number_has_the_text_that_the_server_gives_it();
    }

    #[pg_test]
    fn a_number_without_a_fraction_is_an_integer() {
        crate::json::number::server_tests::a_number_without_a_fraction_is_an_integer();
    }

    #[pg_test]
    fn a_long_number_is_printed_with_an_exponent() {
        crate::json::number::server_tests::a_long_number_is_printed_with_an_exponent();
    }

    #[pg_test]
    fn text_is_compact_and_has_the_length_that_is_counted() {
        crate::json::text::server_tests::text_is_compact_and_has_the_length_that_is_counted();
    }
}
