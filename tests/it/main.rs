//! The tests: people who talk to a real server on a real socket, with a database of their own.

#![expect(clippy::unwrap_used, reason = "in a test a failed expectation is the point")]

mod authorization;
mod availability;
mod bad_input;
mod batches;
mod binary;
mod blocklist;
mod clocks;
mod command_line;
mod conformance;
mod conversations;
mod database_file;
mod demo;
mod devices;
mod durability;
mod ears;
mod file_watch;
mod friends;
mod full_disk;
mod fuzzing;
mod hard_stops;
mod hints;
mod keys;
mod limits;
mod listener;
mod load;
mod message_ids;
mod migration;
mod model;
mod notifications;
mod openssl;
mod operating;
mod overload;
mod privacy;
mod quotas;
mod reads;
mod reports;
mod second_server;
mod settings;
mod shutdown;
mod signatures;
mod stations;
mod tidy;
mod workspaces;
mod world;
