package fileblob

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback asks the kernel to begin writing a part of the file to the disk and does not wait for it. It is
// advice: the flush at the end decides, so an error says nothing.
func startWriteback(file *os.File, offset, length int64) {
	unix.SyncFileRange(int(file.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
}
