package link

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// Invitation is what a runner needs to find its parent and to be let in. It holds a secret: whoever has it first is
// the runner. Once used it admits nobody.
type Invitation struct {
	ID    string `json:"id"`    // what the parent calls the runner
	Token string `json:"token"` // admits one runner, once
	// Addresses lead to the parent, and are tried in this order: "unix:" and a path, or "tcp:", host and port. Whoever
	// starts the runner may change them to what leads there from its machine.
	Addresses []string `json:"addresses"`
	Pin       string   `json:"pin,omitempty"` // SHA-256 of the parent's public key, in hexadecimal; for "tcp:"
	// Forwarded is whether something between runner and parent answers at the addresses even while the parent does not,
	// or may refuse while it lives: a forwarder, a load balancer. Without it a refused connection is taken for what it
	// is when nothing stands between: the word of the parent's computer that the parent is gone.
	Forwarded bool `json:"forwarded,omitempty"`
}

const (
	unixPrefix = "unix:"
	tcpPrefix  = "tcp:"
)

// maxInvitation is the length of an encoded invitation.
const maxInvitation = 16 << 10

// Encode returns the invitation as one word, fit for an environment variable.
func (i *Invitation) Encode() string {
	text, err := json.Marshal(i)
	if err != nil {
		panic(err) // there is nothing in it that cannot be encoded
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// String describes the invitation without its secret.
func (i *Invitation) String() string {
	return fmt.Sprintf("invitation of %s to %s", i.ID, strings.Join(i.Addresses, ", "))
}

// ParseInvitation returns the invitation that Encode made a word of. fault.Invalid: it is none.
func ParseInvitation(word string) (*Invitation, error) {
	refuse := func(why string) (*Invitation, error) {
		return nil, fault.Say(fault.Invalid, "link: what should be an invitation %s", why)
	}
	if len(word) > maxInvitation {
		return refuse("is too long")
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(word))
	if err != nil {
		return refuse("is not in base64; it may have been cut short")
	}
	i := new(Invitation)
	if err := json.Unmarshal(text, i); err != nil {
		return refuse("cannot be read; it may have been cut short")
	}
	if i.ID == "" || i.Token == "" || len(i.Addresses) == 0 {
		return refuse("lacks an id, a token or an address")
	}
	isTCP := func(a string) bool { return strings.HasPrefix(a, tcpPrefix) }
	if slices.ContainsFunc(i.Addresses, func(a string) bool { return !isTCP(a) && !strings.HasPrefix(a, unixPrefix) }) {
		return refuse("has an address that begins with neither unix: nor tcp:")
	}
	if slices.ContainsFunc(i.Addresses, isTCP) && len(i.Pin) != 64 {
		return refuse("names a computer but not its key")
	}
	return i, nil
}
