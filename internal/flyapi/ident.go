package flyapi

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// idents makes what things are called. It is safe for concurrent use.
type idents struct {
	mu   sync.Mutex
	last [16]byte // guarded by mu: the ULID that was made last
}

// ulid returns a new ULID: 26 characters that sort by the time at which they were made, also within a millisecond and
// when the clock goes back.
func (g *idents) ulid(now time.Time) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(max(now.UnixMilli(), 0))<<16)
	rand.Read(id[6:]) // never fails: see crypto/rand
	id[6] &= 0x7f     // leaves room to count up
	g.mu.Lock()
	defer g.mu.Unlock()
	if string(id[:6]) <= string(g.last[:6]) {
		id = g.last
		for i := 15; i >= 0; i-- {
			if id[i]++; id[i] != 0 {
				break
			}
		}
	}
	g.last = id
	return crockford(id)
}

// follow makes the ULIDs to come larger than one that was made by an earlier process.
func (g *idents) follow(ulid string) {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	if len(ulid) != 26 {
		return
	}
	var id [16]byte
	for _, c := range []byte(ulid) {
		carry := uint(max(strings.IndexByte(alphabet, c), 0))
		for i := 15; i >= 0; i-- { // id = id*32 + carry
			sum := uint(id[i])<<5 | carry
			id[i], carry = byte(sum), sum>>8
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if string(id[:]) > string(g.last[:]) {
		g.last = id
	}
}

// crockford writes 128 bits in 26 characters.
func crockford(id [16]byte) string {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var text [26]byte
	high, low := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for i := 25; i >= 0; i-- {
		text[i] = alphabet[low&31]
		low = low>>5 | high<<59
		high >>= 5
	}
	return string(text[:])
}

// randomHex returns n random bytes in hexadecimal.
func randomHex(n int) string {
	random := make([]byte, n)
	rand.Read(random)
	return hex.EncodeToString(random)
}

// randomName returns a name for a machine that was given none, such as "quiet-meadow-4711".
func randomName() string {
	first := []string{"autumn", "bitter", "bold", "broken", "cold", "crimson", "dark", "dawn", "divine", "dry", "empty", "falling",
		"fragrant", "green", "hidden", "holy", "icy", "late", "little", "long", "misty", "muddy", "old", "patient", "polished",
		"proud", "quiet", "red", "silent", "small", "snowy", "solitary", "sparkling", "still", "summer", "twilight", "wandering",
		"weathered", "white", "wild", "winter", "young"}
	second := []string{"bird", "breeze", "brook", "butterfly", "cherry", "cloud", "darkness", "dew", "dream", "dust", "feather",
		"field", "fire", "firefly", "flower", "fog", "forest", "frog", "frost", "glade", "grass", "haze", "hill", "lake", "leaf",
		"meadow", "moon", "morning", "mountain", "night", "paper", "pine", "pond", "rain", "river", "sea", "shadow", "shape",
		"sky", "smoke", "snow", "sound", "star", "sun", "surf", "thunder", "tree", "violet", "voice", "water", "wave", "wind"}
	var random [8]byte
	rand.Read(random[:])
	n := binary.BigEndian.Uint64(random[:])
	return fmt.Sprintf("%s-%s-%d", first[n%uint64(len(first))], second[n>>16%uint64(len(second))], 1000+n>>32%9000)
}

// privateAddress returns the address that a machine is said to have in its private network: always the same for one
// machine. Nothing listens there.
func privateAddress(id string) string {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) < 7 {
		return ""
	}
	address := [16]byte{0xfd, 0xaa, 0, 0, 0, 0, 0xa7, 0xb}
	copy(address[9:], raw[:7])
	return netip.AddrFrom16(address).String()
}

// validID reports whether a text can be the id of a machine.
func validID(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && len(raw) == 7
}
