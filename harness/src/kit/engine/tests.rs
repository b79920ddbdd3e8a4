use std::os::fd::AsRawFd;

use super::*;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::{self, POISON};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn every_engine_reads_and_writes() {
    let mut engines = Engines::default();
    for engine in Engine::ALL {
        let file = tempfile::tempfile().unwrap();
        let buffer = Buffer::new(Memory::Anon, 4096).unwrap();
        buffer.write(0, &stamp::content(1, 1, 0, 4096));
        if engine == Engine::Fixed {
            engines.register(buffer.ptr(), buffer.len()).unwrap().unwrap();
        }
        let (fd, memory) = (file.as_raw_fd(), buffer.ptr());
        // It appends wherever it is told to write.
        let offset = if engine == Engine::Append { 0 } else { 512 };
        for way in [Way::Write, Way::Read] {
            let io = Io { fd, way, memory, len: 4096, offset };
            let mut flight = engines.start(engine, io).unwrap();
            while !engines.is_done(&mut flight).unwrap() {
                std::thread::yield_now();
            }
            let done = engines.finish(flight, BOUND).unwrap();
            // Flags that not every filesystem, kernel or direction has.
            let may_refuse = [Engine::Nowait, Engine::Dontcache, Engine::Dsync, Engine::Append]
                .contains(&engine);
            if may_refuse && done == Err(Errno::EOPNOTSUPP) {
                buffer.write(0, &stamp::content(1, 1, 0, 4096));
                break;
            }
            assert_eq!(done, Ok(4096), "{engine:?} {way:?}");
            if way == Way::Write {
                buffer.fill(0, 4096, POISON);
            }
        }
        assert_eq!(buffer.bytes(0, 4096), stamp::content(1, 1, 0, 4096), "{engine:?}");
        if engine == Engine::Fixed {
            engines.unregister().unwrap();
        }
    }
}

#[test]
fn an_io_that_does_not_end_is_a_hang_and_errors_are_results() {
    let mut engines = Engines::default();
    let (read, _write) = nix::unistd::pipe().unwrap();
    let buffer = Buffer::new(Memory::Anon, 4096).unwrap();
    let (fd, memory) = (read.as_raw_fd(), buffer.ptr());
    let io = Io { fd, way: Way::Read, memory, len: 10, offset: 0 };
    let flight = engines.start(Engine::Pread, io).unwrap();
    assert_eq!(engines.finish(flight, BOUND).unwrap(), Err(Errno::ESPIPE));
    let io = Io { fd, way: Way::Read, memory, len: 10, offset: u64::MAX };
    let flight = engines.start(Engine::Uring, io).unwrap();
    let error = engines.finish(flight, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Stop::Hang(_))), "{error:#}");
}
