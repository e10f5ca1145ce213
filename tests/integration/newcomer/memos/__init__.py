"""An app as a newcomer writes it: an uploaded note becomes a page, followed and read by a link."""
