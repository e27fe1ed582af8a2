package local

import (
	"slices"
	"testing"
)

func TestMountPointsAreFoundByTheirPlainPathsAndWithoutThoseBelow(t *testing.T) {
	t.Parallel()
	const list = `22 27 0:21 / /proc rw - proc proc rw
30 27 8:1 / /state/slots/1 rw shared:1 - ext4 /dev/sda1 rw
31 30 8:1 /x /state/slots/1/a rw shared:1 master:2 - ext4 /dev/sda1 rw
32 30 8:1 /x /state/slots/1\040b\134/c\011d rw - ext4 /dev/sda1 rw
33 31 8:1 /x /state/slots/1/a/b rw - ext4 /dev/sda1 rw
34 30 8:1 / /state/slots/1 rw - ext4 /dev/sda1 rw
35 27 8:1 / /state/slots/12 rw - ext4 /dev/sda1 rw
36 27 8:1 / /state rw - ext4 /dev/sda1 rw
truncated
`
	cases := map[string][]string{
		"/state/slots/1":       {"/state/slots/1"},
		"/state/slots/1/a":     {"/state/slots/1/a"},
		"/state/slots":         {"/state/slots/1", "/state/slots/1 b\\/c\td", "/state/slots/12"},
		"/state/slots/1 b\\":   {"/state/slots/1 b\\/c\td"},
		"/state/slots/3":       nil,
		"/state/slots/1/a/b/c": nil,
	}
	for path, want := range cases {
		if got := mountPoints([]byte(list), path); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}
