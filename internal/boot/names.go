package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// ownerOf returns the owner of the machines of a program's pool: the same whenever and wherever the program runs, so that it
// finds what it has left, and another for every other.
func ownerOf(program, pool string) string {
	sum := sha256.Sum256([]byte(program + "\x00" + pool))
	return "calls-" + shortName(program, 20) + "-" + shortName(pool, 20) + "-" + hex.EncodeToString(sum[:4])
}

// shortName makes a name of what anybody has called something: a-z, 0-9 and '-', beginning with a letter, at most so many
// characters.
func shortName(name string, most int) string {
	var short strings.Builder
	for _, c := range strings.ToLower(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			c = '-'
		}
		if short.Len() == 0 && (c < 'a' || c > 'z') {
			short.WriteByte('p')
		}
		if short.Len() >= most {
			break
		}
		short.WriteRune(c)
	}
	if short.Len() == 0 {
		return "p"
	}
	return short.String()
}
