//! Says what `cargo test` leaves out, and how to run it. It needs more than Cargo brings.

#[path = "it/harness/postgres/binaries.rs"]
mod binaries;

const LEFT_OUT: &str = "
Not run by cargo test (.ci/run runs all of it, and installs what it needs):
  the web client's units:      cd tests/web && npm ci && npm run check && npm test
  the web client in Chromium:  cd tests/web && npm run browser
  live answers against the OpenAPI document:
                               pip install -r tests/requirements.txt && pytest tests/python
  the server behind a proxy:   tests/behind_proxy.sh nginx target/debug/chatserver (or haproxy, apache, caddy)
  the Debian package:          cargo install --locked cargo-deb && packaging/test_deb.sh target/debug/chatserver
  the container image's root:  packaging/test_image.sh target/debug/chatserver
";

/// Tests that are left out where the machine has no PostgreSQL.
const WITHOUT_POSTGRESQL: &str = "\
  the store on PostgreSQL, and several nodes:
                               apt-get install postgresql haproxy && cargo test
                               The tests run clusters of their own; the one that the package starts may be stopped.
";

fn main() {
    print!("{LEFT_OUT}");
    if binaries::folder().is_none() {
        print!("{WITHOUT_POSTGRESQL}");
    }
    println!();
}
