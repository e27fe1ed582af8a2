package boot

// LocalIn is Local with its state in the first of the places that can be used.
var LocalIn = localIn
