package fileblob

import (
	"path"
	"strings"
	"testing"
)

// FuzzPathOf checks that every key is refused or has a path that stays inside, whose parts a file system can hold, and
// which leads back to the key and to no other.
func FuzzPathOf(f *testing.F) {
	for _, key := range []string{
		"a", "a/b", "../x", ".", "..", "a~o", "~d/~o", "%41", "\\", "ä/\u202e", strings.Repeat("x", 400),
		strings.Repeat("x", 198) + "/a", strings.Repeat("x", 198), strings.Repeat("~", 67) + "/.", "a\x00", "/", "", "\xff",
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		name, err := pathOf(key)
		if err != nil {
			return
		}
		if path.Clean(name) != name || path.IsAbs(name) || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "\x00\\\n") {
			t.Fatalf("the path of %q is %q", key, name)
		}
		parts, back := strings.Split(name, "/"), ""
		for i, part := range parts {
			text, kind := parseName(part, i < len(parts)-1)
			if len(part) > 255 || part == "." || part == ".." || kind == foreign || (kind == object) != (i == len(parts)-1) {
				t.Fatalf("the path of %q has the part %q of %d bytes, kind %d", key, part, len(part), kind)
			}
			back += text
			if kind == directory {
				back += "/"
			}
		}
		if back != key {
			t.Fatalf("the path %q leads back to %q, want %q", name, back, key)
		}
		dirs, _ := components(key)
		if n := decodedLength(dirs); n > len(key) || back[:n] != key[:n] {
			t.Fatalf("the directories %q of %q stand for %d bytes", dirs, key, n)
		}
	})
}

// FuzzDecodeTrailer checks that no end of a file makes reading its trailer fail in another way than with an error.
func FuzzDecodeTrailer(f *testing.F) {
	whole, err := encodeTrailer(metadata{Size: 3, SHA256: strings.Repeat("0", 64), ContentType: "text/plain"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte("abc"), whole...), int64(0))
	f.Add(whole[:len(whole)-1], int64(7))
	f.Add([]byte(trailerMagic), int64(1<<62))
	f.Fuzz(func(t *testing.T, tail []byte, before int64) {
		m, err := decodeTrailer(tail, int64(len(tail))+before)
		if err == nil && (m.Size > int64(len(tail))+before || before >= 0 && m.Size < 0) {
			t.Errorf("accepted a size of %d in a file of %d bytes", m.Size, int64(len(tail))+before)
		}
	})
}
