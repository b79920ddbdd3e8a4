//! What every room uses: system calls, memory, I/O, and what can be seen of the kernel. Knows no filesystem and no case.

pub mod bounds;
pub mod engine;
pub mod event;
pub mod fork;
pub mod frames;
pub mod image;
pub mod interrupt;
pub mod kernel;
pub mod kmsg;
pub mod loop_device;
pub mod mapping;
pub mod memlock;
pub mod memory;
pub mod nearest;
pub mod output;
pub mod pagemap;
pub mod passthrough;
pub mod pause;
pub mod pins;
pub mod pipe;
pub mod seen;
pub mod stacks;
pub mod stamp;
pub mod strip;
pub mod sys;
pub mod verdict;
