package engine

import (
	"encoding/base32"

	"github.com/google/uuid"
)

// newID returns the prefix followed by 26 characters that sort by the time they were made and are unique everywhere.
func newID(prefix string) string {
	id, err := uuid.NewV7()
	if err != nil {
		// The random source of the operating system never fails on the platforms Dayfly runs on.
		panic("engine: no random numbers: " + err.Error())
	}
	// The alphabet is in the order of its bytes, so the text sorts as the number does; it has no upper case and no
	// letters that are mistaken for digits, and it is legal in host names.
	encoding := base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
	return prefix + encoding.EncodeToString(id[:])
}

// machineName returns the name of an attempt's machine: the same each time, so that a repeated create is the same
// create, and legal at every provider.
func machineName(install, attempt string) string {
	return "dayfly-" + install + "-" + attempt[len("att_"):]
}

// ownerOf returns the owner that all machines of an installation carry.
func ownerOf(install string) string { return "dayfly-" + install }
