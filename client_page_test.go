package dayfly_test

// pageOf is one page of a list as the server answers it.
func pageOf(items any, next string) map[string]any {
	return map[string]any{"items": items, "next_cursor": next}
}
