// Package hostshell lets real programs run in the machines of a memmachine.Cloud, as plain processes of this computer,
// for tests that need more than a guest written in Go: a shell, a terminal, a signal.
//
// It holds nothing together: what leaves its process group is not found again. Package local is the real thing.
package hostshell
