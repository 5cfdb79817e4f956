"""One program per trainer under measurement; they speak `turns.Turns` with the driver."""
