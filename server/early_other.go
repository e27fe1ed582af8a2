//go:build !linux

package server

import "syscall"

// bindEarly does nothing: only Linux lets a socket listen at an address that this computer does not have yet.
func bindEarly(string, string, syscall.RawConn) error { return nil }
