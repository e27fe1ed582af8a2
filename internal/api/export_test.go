package api

import "slices"

// Routes returns the patterns of all routes.
func (a *API) Routes() []string { return slices.Clone(a.router.patterns) }

// The decoders of what strangers put into headers and queries, to be fuzzed.
var (
	ParsePlace  = parsePlace
	ParseChunk  = parseChunk
	ParseWait   = parseWait
	Disposition = disposition
)

// OpenCursor reads a cursor of a list.
func OpenCursor(list, filters, text string) (string, error) { return cursor{list, filters}.open(text) }

// SealCursor makes a cursor of a list.
func SealCursor(list, filters, place string) string { return cursor{list, filters}.seal(place) }
