//! What the standard library can't ask the kernel for: ioctls of the random device, of disks and of
//! ext4, the clock, and the routing socket.
//!
//! The only `unsafe` of the agent. It depends on no crate, so that it can be compiled by a build script without
//! a network; these are the declarations that such a crate would bring.

use std::ffi::{c_int, c_long, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// The most random bytes that are mixed in at once.
pub(crate) const MAX_SEED: usize = 512;

/// `struct rand_pool_info` of `linux/random.h`, with room for [`MAX_SEED`] bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: c_int,
    bytes: c_int,
    seed: [u8; MAX_SEED],
}

/// `struct timespec` on 64-bit Linux.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

/// `_IOW('R', 0x03, int[2])`: mixes bytes in and counts them as random.
const RNDADDENTROPY: c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`: the generator takes a new key from the pool at once, and not when its time has come.
const RNDRESEEDCRNG: c_ulong = 0x5207;
const CLOCK_REALTIME: c_int = 0;

/// `struct blkpg_partition` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg` of the same.
#[repr(C)]
struct BlkpgRequest {
    operation: c_int,
    flags: c_int,
    length: c_int,
    partition: *const BlkpgPartition,
}

/// `_IO(0x12, 105)`: changes the kernel's idea of a partition, also of one that is mounted.
const BLKPG: c_ulong = 0x1269;
const BLKPG_RESIZE_PARTITION: c_int = 3;
/// `_IOW('f', 16, __u64)` of `linux/ext4.h`: the file system gets that many blocks.
const EXT4_IOC_RESIZE_FS: c_ulong = 0x4008_6610;

const AF_NETLINK: c_int = 16;
/// SOCK_RAW, SOCK_CLOEXEC and SOCK_NONBLOCK: an answer that is not there at once never comes.
const NETLINK_SOCKET: c_int = 3 | 0o2_000_000 | 0o4000;
const NETLINK_ROUTE: c_int = 0;

#[allow(unsafe_code)] // Functions of the C library that std links already, as their manual pages declare them.
unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn clock_settime(clock: c_int, time: *const Timespec) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
}

/// Mixes `seed` into the kernel's random pool, counted as random, and has the generator use it from now on.
///
/// # Errors
/// More than [`MAX_SEED`] bytes; what the kernel says.
pub(crate) fn reseed(seed: &[u8]) -> io::Result<()> {
    let mut info = PoolInfo { entropy_bits: 0, bytes: 0, seed: [0; MAX_SEED] };
    info.seed
        .get_mut(..seed.len())
        .ok_or_else(|| io::Error::other("the seed is too long"))?
        .copy_from_slice(seed);
    let length = c_int::try_from(seed.len()).map_err(io::Error::other)?;
    (info.entropy_bits, info.bytes) = (length * 8, length);
    let device = OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: the descriptor is open, and `info` is laid out as the kernel expects it and outlives the call, which
    // reads `bytes` bytes of `seed`, no more than there are.
    #[allow(unsafe_code)]
    let added = unsafe { ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    answered(added)?;
    // SAFETY: the descriptor is open; this request takes no argument.
    #[allow(unsafe_code)]
    let reseeded = unsafe { ioctl(device.as_raw_fd(), RNDRESEEDCRNG) };
    answered(reseeded)
}

/// Sets the clock: nanoseconds since 1970.
///
/// # Errors
/// What the kernel says.
pub(crate) fn set_clock(nanoseconds: u64) -> io::Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let time = Timespec {
        seconds: i64::try_from(nanoseconds / SECOND).map_err(io::Error::other)?,
        nanoseconds: c_long::try_from(nanoseconds % SECOND).map_err(io::Error::other)?,
    };
    // SAFETY: `time` is laid out as the kernel expects it, and is only read during the call.
    #[allow(unsafe_code)]
    let set = unsafe { clock_settime(CLOCK_REALTIME, &raw const time) };
    answered(set)
}

/// Tells the kernel how long a partition of `disk` is now; `start` and `length` in bytes.
///
/// # Errors
/// What the kernel says.
pub(crate) fn resize_partition(
    disk: &File,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let partition = BlkpgPartition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number: c_int::try_from(number).map_err(io::Error::other)?,
        names: [0; 128],
    };
    let request = BlkpgRequest {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: c_int::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?,
        partition: &raw const partition,
    };
    // SAFETY: the descriptor is open, and both structures are laid out as the kernel expects them and outlive the call,
    // which only reads them.
    #[allow(unsafe_code)]
    let resized = unsafe { ioctl(disk.as_raw_fd(), BLKPG, &raw const request) };
    answered(resized)
}

/// Makes the ext4 file system that `directory` is in that many blocks large, while it is mounted.
///
/// # Errors
/// What the kernel says: it is another file system, or smaller.
pub(crate) fn resize_ext4(directory: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads eight bytes of `blocks`, which outlives the call.
    #[allow(unsafe_code)]
    let resized = unsafe { ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    answered(resized)
}

/// A routing socket. What is written goes to the kernel.
///
/// # Errors
/// What the kernel says.
pub(crate) fn route_socket() -> io::Result<File> {
    // SAFETY: it takes three numbers.
    #[allow(unsafe_code)]
    let descriptor = unsafe { socket(AF_NETLINK, NETLINK_SOCKET, NETLINK_ROUTE) };
    answered(descriptor)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    #[allow(unsafe_code)]
    let file = unsafe { File::from_raw_fd(descriptor) };
    Ok(file)
}

fn answered(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_is_too_long_is_refused_before_the_kernel_is_asked() {
        assert!(reseed(&[0; MAX_SEED + 1]).is_err());
        assert_eq!(size_of::<PoolInfo>(), 8 + MAX_SEED);
        assert_eq!(size_of::<Timespec>(), 16);
        assert_eq!((size_of::<BlkpgPartition>(), size_of::<BlkpgRequest>()), (152, 24));
    }
}
