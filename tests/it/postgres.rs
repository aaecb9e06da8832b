//! The store on PostgreSQL: a real one, which runs while the tests do.

mod full_disk;
mod migrating;
mod passwords;
mod refused;
mod schema;
mod statements;
mod suites;
mod tls;
mod upgrade;

use crate::harness::postgres::PostgresDatabase;

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (Some(one), Some(other)) = (PostgresDatabase::empty(), PostgresDatabase::empty()) else {
        return;
    };
    one.runs("CREATE TABLE here ()");
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'here'";
    assert_eq!((one.number(tables).await, other.number(tables).await), (1, 0));
}
