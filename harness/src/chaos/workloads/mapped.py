"""Writes through shared mappings that stay mapped, and checks them against what it keeps in memory."""
import hashlib, json, mmap, os, random, signal, sys, time

path, control, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
SIZE = 1 << 20
choose = random.Random(seed)
want = bytearray(SIZE)
done = 0


def progress():
    global done
    done += 1
    with open(os.path.join(control, "progress"), "r+b") as f:
        f.write(done.to_bytes(8, "little"))


def check(what, found):
    if found != want:
        at = next(i for i in range(SIZE) if found[i] != want[i])
        sys.exit(f"{what}: byte {at} is {found[at]}, should be {want[at]}")


fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
os.ftruncate(fd, SIZE)
first, second = mmap.mmap(fd, SIZE), mmap.mmap(fd, SIZE)
while not os.path.exists(os.path.join(control, "stop")):
    for _ in range(8):
        at, length = choose.randrange(SIZE - 9000), choose.randrange(1, 9000)
        data = choose.randbytes(length)
        if choose.random() < 0.7:
            (first if choose.random() < 0.5 else second)[at : at + length] = data
        else:
            if os.pwrite(fd, data, at) != length:
                sys.exit("a short write")
        want[at : at + length] = data
    first.flush()
    if choose.random() < 0.3:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        first.madvise(mmap.MADV_DONTNEED)
    check("through the mapping", first[:])
    check("through read", os.pread(fd, SIZE, 0))
    progress()
    time.sleep(0.002)
first.flush()
os.fsync(fd)
with open(os.path.join(control, "model"), "w") as f:
    json.dump(hashlib.sha256(want).hexdigest(), f)
