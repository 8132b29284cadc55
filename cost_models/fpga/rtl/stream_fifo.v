// Ready/valid FIFO of registers: a beat is visible at the output one cycle after it was taken, and `in_ready` depends on
// registers only, so that back-pressure makes no combinational path from block to block.
module stream_fifo #(
    parameter WIDTH = 8,
    parameter DEPTH = 2
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             in_valid,
    output wire             in_ready,
    input  wire [WIDTH-1:0] in_data,
    output wire             out_valid,
    input  wire             out_ready,
    output wire [WIDTH-1:0] out_data
);
    localparam AW = DEPTH > 1 ? $clog2(DEPTH) : 1;

    reg [WIDTH-1:0] beats [0:DEPTH-1];
    reg [AW-1:0] head, tail;
    reg [AW:0] count;

    wire push = in_valid && in_ready;
    wire pop  = out_valid && out_ready;

    assign in_ready  = count < DEPTH;
    assign out_valid = count != 0;
    assign out_data  = beats[head];

    function [AW-1:0] after(input [AW-1:0] place);
        after = (place == DEPTH - 1) ? 0 : place + 1;
    endfunction

    always @(posedge clk) begin
        if (push) beats[tail] <= in_data;
        if (rst) begin
            head  <= 0;
            tail  <= 0;
            count <= 0;
        end else begin
            if (push) tail <= after(tail);
            if (pop) head <= after(head);
            if (push && !pop) count <= count + 1;
            if (pop && !push) count <= count - 1;
        end
    end
endmodule
