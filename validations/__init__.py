"""The gate between computed tables and everything that reads them; Great Expectations lives here."""
