package fileblob

import (
	"strings"

	"github.com/dayfly-run/dayfly/blob"
)

// How a key becomes a path.
//
// The key is divided into components. A component ends at a slash, at the key's end, or when it has grown too long
// for a file name. What kind of end it was is its suffix, so that an object "a" and objects below "a/" can be
// neighbors:
//
//	a        a directory: a component that ended at a slash
//	a~o      an object: the key ended here
//	a~c      a directory with what continues a component that was too long
//
// An empty component that ends at a slash, which only a continuation can have, is "~d". Bytes that are not safe in
// a name, and '~' and '%' themselves, are written as %XX, and so is a leading dot. So each key has exactly one path,
// each path at most one key, and no path can be ".", ".." or absolute.
const (
	objectSuffix       = "~o"
	continuationSuffix = "~c"
	emptyDirectory     = "~d"

	maxComponent = 198 // after which a component is continued; with the last escape and the suffix it stays below 255
	hexDigits    = "0123456789ABCDEF"
)

// pathOf returns the path of an object's file, or fault.Invalid.
func pathOf(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	dirs, last := components(key)
	return dirs + last + objectSuffix, nil
}

// components returns the directories of a key, or of the beginning of one, as a path that is empty or ends in a
// slash, and the escaped beginning of the component after them.
func components(key string) (dirs, last string) {
	var path strings.Builder
	start := 0 // of the component within path
	for i := range len(key) {
		c := key[i]
		switch first := path.Len() == start; {
		case c == '/' && first:
			path.WriteString(emptyDirectory + "/")
			start = path.Len()
			continue
		case c == '/':
			path.WriteByte('/')
			start = path.Len()
			continue
		case mustEscape(c, first):
			path.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		default:
			path.WriteByte(c)
		}
		// Ending here whatever follows, or does not, keeps all keys that begin alike in one directory.
		if path.Len()-start >= maxComponent {
			path.WriteString(continuationSuffix + "/")
			start = path.Len()
		}
	}
	whole := path.String()
	return whole[:start], whole[start:]
}

func mustEscape(c byte, first bool) bool {
	return c < ' ' || c == 0x7f || c == '%' || c == '~' || c == '\\' || first && c == '.'
}

// entryKind says what a name in a directory stands for.
type entryKind int

const (
	foreign entryKind = iota // nothing that pathOf makes
	object
	directory
	continuation
)

// parseName is the inverse of one component of pathOf.
func parseName(name string, isDir bool) (text string, kind entryKind) {
	kind = directory
	if base, ok := strings.CutSuffix(name, objectSuffix); ok && !isDir {
		name, kind = base, object
	} else if base, ok := strings.CutSuffix(name, continuationSuffix); ok && isDir {
		name, kind = base, continuation
	} else if !isDir {
		return "", foreign
	} else if name == emptyDirectory {
		return "", directory
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '%' {
			if i+2 >= len(name) {
				return "", foreign
			}
			high, low := strings.IndexByte(hexDigits, name[i+1]), strings.IndexByte(hexDigits, name[i+2])
			if high < 0 || low < 0 {
				return "", foreign
			}
			c = byte(high<<4 | low)
			i += 2
		} else if mustEscape(c, i == 0) {
			return "", foreign
		}
		b.WriteByte(c)
	}
	return b.String(), kind
}
