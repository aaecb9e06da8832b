//! The harness that the tests share: servers, people and other clients, databases, disks and random input.

pub mod availability;
pub mod certificates;
pub mod changes;
pub mod database;
pub mod disk;
pub mod friends;
pub mod home;
pub mod interposer;
pub mod left_out;
pub mod nginx;
pub mod notification;
pub mod openssl;
pub mod operator;
pub mod person;
pub mod postgres;
pub mod process;
pub mod random;
pub mod reports;
pub mod shells;
pub mod sockets;
pub mod terminal;
pub mod tls;
pub mod world;
pub mod ws_client;
pub mod ws_frames;
