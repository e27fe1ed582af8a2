package link

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// protocolVersion is that of greeting, answer and records.
const protocolVersion = 1

// magic begins a greeting and an answer, before the version. Neither changes its place in a later version.
const magic = "dayfly"

// maxHandshake is how many bytes a greeting or an answer has at most.
const maxHandshake = 32 << 10

// handshakeTimeout is how long a connection has to prove itself.
const handshakeTimeout = 10 * time.Second

// greeting is the first that a runner says on a connection.
type greeting struct {
	ID       string `json:"id"`
	Token    string `json:"token"`
	Secret   string `json:"secret"`   // of the runner's making; with it, it is recognized again
	Attempt  uint64 `json:"attempt"`  // numbers the runner's connections, from 1
	Received uint64 `json:"received"` // how many bytes of the parent's records it has
	Hello    Hello  `json:"hello"`
}

// answer is what the parent says to it.
type answer struct {
	Refusal  *refusal      `json:"refusal,omitempty"`
	Received uint64        `json:"received"` // how many bytes of the runner's records the parent has
	Silence  time.Duration `json:"silence"`
	Hello    Hello         `json:"hello"`
}

// refusal is why a runner is not admitted.
type refusal struct {
	Kind     fault.Kind `json:"kind"`
	Reason   string     `json:"reason"`
	Mismatch bool       `json:"mismatch,omitempty"` // the builds differ; the answer's Hello says what the parent's is
}

// writeMessage writes a greeting or an answer: the magic, the version, the length as four bytes, and JSON.
func writeMessage(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("link: %w: %w", fault.Internal, err)
	}
	if len(text) > maxHandshake {
		return fault.Say(fault.TooLarge, "link: a handshake of %d bytes is larger than the %d that are allowed", len(text), maxHandshake)
	}
	head := append([]byte(magic), protocolVersion)
	head = binary.BigEndian.AppendUint32(head, uint32(len(text)))
	_, err = w.Write(append(head, text...))
	return err
}

// readMessage reads what writeMessage wrote. It reads not a byte more, and believes no length above maxHandshake.
// fault.Invalid: it is something else. fault.Unsupported: it is of another version.
func readMessage(r io.Reader, message any) error {
	head := make([]byte, len(magic)+1+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head[:len(magic)]) != magic {
		return fault.Say(fault.Invalid, "link: what was received is not of this protocol")
	}
	if version := head[len(magic)]; version != protocolVersion {
		return fault.Say(fault.Unsupported, "link: the other process speaks version %d of the protocol and this one version %d; "+
			"start runners from the parent's own binary", version, protocolVersion)
	}
	size := binary.BigEndian.Uint32(head[len(magic)+1:])
	if size > maxHandshake {
		return fault.Say(fault.TooLarge, "link: a handshake of %d bytes is larger than the %d that are allowed", size, maxHandshake)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	if err := json.Unmarshal(text, message); err != nil {
		return fault.Say(fault.Invalid, "link: a handshake cannot be read")
	}
	return nil
}
