"""Open the page: `python app.py [--host HOST] [--port PORT]`."""

from orpo_qlora.ui.web.serve import main

if __name__ == "__main__":
    main()
