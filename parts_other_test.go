//go:build !linux

package dayfly_test

// playPart does nothing: the tests that start this program as something else need processes of Linux.
func playPart() {}
