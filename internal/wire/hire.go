package wire

import (
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// These are the messages by which a program has machines of a server's providers, for the runners of its pools. A program
// speaks as a machine.Provider is spoken to, and the server does what that says:
//
//	POST   /hired/v1/PROVIDER/machines                  Hire -> machine.Machine      Create
//	GET    /hired/v1/PROVIDER/machines?owner=&holder=   -> Hired                     List; renews the holder's lease
//	GET    /hired/v1/PROVIDER/machines/ID               -> machine.Machine           Get
//	DELETE /hired/v1/PROVIDER/machines/ID                                            Destroy
//	GET    /hired/v1/PROVIDER/machines/ID/logs?follow=  -> lines of HiredOutput      Logs
//	POST   /hired/v1/PROVIDER/preparations              Hire -> lines of HiredStep   Prepare
//	POST   /hired/v1/PROVIDER/programs                  machine.Program              CheckProgram
//	GET    /hired/v1/PROVIDER/gateway                   -> HireGateway               Gateway
//
// A token needs the scope "hire". Errors are problem details, and their code is the kind that the provider's error has.

// HirePrefix is where the paths of these messages begin.
const HirePrefix = "/hired/v1/"

// MaxHire is how large a message of a program's may be, in bytes: a Spec with its files.
const MaxHire = 2 << 20

// Hire asks for a machine.
type Hire struct {
	// Holder is who needs the machine, a text of 1 to 64 characters that nobody else uses. When the server has not heard of it
	// for the time of a lease, the machine is destroyed.
	Holder string       `json:"holder"`
	Spec   machine.Spec `json:"spec"`
}

// Hired is the list of an owner's machines.
type Hired struct {
	Machines []*machine.Machine `json:"machines"`
}

// HiredOutput is a line of what a machine has printed: a piece of one of its streams, or nothing, as a sign of life, at least every
// HiredSign. The last line says that it is the last, or why there is no more; when there is none, the rest is missing.
type HiredOutput struct {
	Out     []byte   `json:"out,omitempty"`
	Errors  []byte   `json:"errors,omitempty"`
	End     bool     `json:"end,omitempty"`
	Problem *Problem `json:"problem,omitempty"`
}

// HiredStep is a line of how far a provider is in making ready for a machine. For signs of life and the end HiredOutput's rules
// hold.
type HiredStep struct {
	Text    string   `json:"text,omitempty"`
	Done    int64    `json:"done,omitempty"`
	Total   int64    `json:"total,omitempty"`
	End     bool     `json:"end,omitempty"`
	Problem *Problem `json:"problem,omitempty"`
}

const (
	// MaxHiredPiece is how much of a stream is in one line, in bytes.
	MaxHiredPiece = 32 << 10
	// HiredSign is how long there may be no line.
	HiredSign = 15 * time.Second
)

// HireGateway says by which address the machines of a provider reach the computer that the server runs on.
type HireGateway struct {
	Address string `json:"address"`
}
