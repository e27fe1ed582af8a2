//go:build !linux

package fileblob

import "os"

// startWriteback does nothing where the kernel takes no such advice.
func startWriteback(*os.File, int64, int64) {}
